"""Determine from the command which files of a repository may change and which must not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from agent.format import one_line
from agent.init.discover import TEST_FILE, Candidate, Files, header, prose, scripts_of, trains
from agent.source.constants import parsed
from agent.system.patterns import matches

HARNESS = re.compile(
    r"^(prepare.*|preprocess.*|datasets?|dataload\w*|data|evaluat\w*|eval|metrics?|scor\w+|bench.*|benchmarks?|harness"
    r"|judge|checker|grade\w*|test_.*|.*_test|conftest|setup|noxfile|witness|attest|ref|reference.*|.*_reference|oracles?"
    r"|.*_oracle|golden.*|ground_?truth|verif\w+|validat\w+|referee)$"
)
# A whole part of a name says it as well, as in load_data.py, eval_utils.py and loadData.js: a generator.py of a GAN and
# a database.py are neither. `data_parallel.py`, named for its last part, is a model's.
HARNESS_PARTS = set(
    "data dataset datasets dataloader dataloaders datagen split splits eval evals evaluate evaluation evaluator metric"
    " metrics scorer scoring judge checker grader bench benches benchmark benchmarks oracle oracles referee".split()
)
FIRST_OF_HARNESS = {"gen", "datagen", "loader", "loaders"}  # as the whole name, or before more: gen.py, gen_rows.py
OF_A_MODEL = set(
    "model models net nets network networks layer layers loss losses attention parallel augment augmentation"
    " augmentations aug learning head heads encoder decoder block blocks optim optimizer structure structures type"
    " types search searcher finder solver parser".split()
)
JUDGING = {"eval", "evals", "evaluate", "evaluation", "bench", "benchmark", "judge", "load", "make", "test"}
HARNESS_FOLDERS = {
    *("reference", "references", "oracle", "oracles", "golden", "bench", "benches", "benchmark", "benchmarks"),
    "evaluation",
}
# A folder that says it of the files that are not named for a part of a model.
FOLDERS_OF_DATA = {"eval", "evals", "data", "dataset", "datasets", "metrics"}
# A benchmark measures a library, which may be a data_store.py, a string_split.py or a metrics/median.py.
OF_BENCHMARKS = {"bench", "benches", "benchmark", "benchmarks"}
MEASURES = re.compile(r"\b(bench(es|marks?)?|tests?)\b")
# Tests of other languages than Python, which pytest does not run.
OTHER_TEST = re.compile(
    r"(^|/)([^/]+[._-](test|spec)s?\.(c|m)?[jt]sx?|[^/]+_(test|spec)\.(go|rb|c|cc|cpp|rs)|test_[^/]*\.(c|cc|cpp|rs|go|js)"
    r"|[^/]*[a-z]Tests?\.(java|kt))$|(^|/)__tests__/"
)
FIXED = re.compile(
    r"\b(?:(?:(?:do not|don't|dont|must not|may not|should not|shouldn't|mustn't|never|not to|cannot|can't|not)"
    r" (?P<be>be )?(?P<verb>(?:modif|edit|chang|touch|alter|rewrit)\w*))"
    r"|read[- ]only|frozen|immutable|untouched|hands off|off[- ]limits)\b",
    re.IGNORECASE,
)
EXCEPT = re.compile(
    r"\b(except|other than|besides|apart from|outside( of)?|(every|any)thing else|all others?|other files|the rest)\b",
    re.IGNORECASE,
)
PART_OF_A_FILE = re.compile(
    r"^\W*(anything |code )?(below|above|this (line|section|block|part)|the (line|section|block)s?)", re.IGNORECASE
)
JUDGES = re.compile(
    r"^\W*((the|an?|pure|fixed|independent|slow|naive|simple|plain|holds|this (file|module|script) (is|holds|has)) )*"
    r"(evaluator|oracles?|judge|referee|ground[- ]truth|reference implementations?|(test|benchmark) harness)\b",
    re.IGNORECASE,
)
EDITS = r"(?:edit|modif|chang|tun|improv|optimi[sz]|rewrit|touch)\w*"
NAME = r"[`*\"']*([\w./-]+\.\w{1,6})\b[`*\"']*"
FILE = re.compile(
    r"(?<![\w./-])([\w./-]*\w\.(?:pyx?|c|cc|cpp|cu|h|hpp|rs|go|js|ts|java|jl|rb|zig|metal|sh|json|ya?ml|toml))\b"
)
MARKS = r"[`*\"'()\[\]\s]*"
# A statement is about a file only where it is an order with the file as its object, or says something of the file:
# `train.py` may load a frozen encoder, and not modify its input.
THIS = r"(?:it|they|them|this|these|both|(?:this|these|the|all) (?:file|module|script|code)s?)"
STATED_OF = re.compile(
    rf"(?:(?P<file>{FILE.pattern})|\b{THIS}"
    rf"|\b(?:code|everything|all|contents?) (?:in|of|from) {MARKS}{FILE.pattern}){MARKS},? "
    r"(?:(?:is|are|was|must|should|has|have|to|be|stays?|remains?|kept|considered|treated|as|strictly|always|also|all|both"
    r"|may|can|will)\s+)*\W*$",
    re.IGNORECASE,
)
TREATED_AS = re.compile(rf"\b(?:keep|treat|consider|leave)\b[^.;]*{FILE.pattern}{MARKS}(?:as )?\W*$", re.IGNORECASE)
WITHIN = re.compile(rf"\b(?:in|of|from|by|inside|within|with)\b(?: the| file)*{MARKS}$", re.IGNORECASE)
BEGINS_CLAUSE = re.compile(
    r"(?:^|[^\w\s`*\"']|\b(?:please|so|and|you|agents?|models?|candidates?|loops?|proposers?))[\s`*\"'#/]*$",
    re.IGNORECASE,
)
ENDS_CLAUSE = re.compile(
    r"(?: (?:by hand|manually|directly|ever|at all|by (?:the |any )?(?:agents?|models?|candidates?|proposers?)"
    r"|(?:between|across|during) (?:the |all )?(?:runs|experiments)))*[\s`*\"']*(?:$|[^\w\s`*\"'])",
    re.IGNORECASE,
)
OBJECT = re.compile(
    rf"(?:,? (?:or|and) \w+)*{MARKS}(?:{THIS}\b(?! \w+ing\b)"
    rf"|(?:(?!(?:in|of|by|with|between|during)\b)\w+ ){{0,4}}{MARKS}{FILE.pattern}"
    rf"|(?:anything|any code|the code|the contents?|any part) (?:in|of|from) {MARKS}(?:{THIS}\b|{FILE.pattern})"
    rf"|the (?:\w+ ){{1,3}}(?:in|of|from) {MARKS}{FILE.pattern})",
    re.IGNORECASE,
)
# Unlike "cannot change" or "never changes", these words hardly describe: with a file in the sentence, they protect it.
ORDER = re.compile(
    r"(?P<do>do not|don't|dont)?(?:must not|mustn't|may not|should not|shouldn't|never)? "
    r"(?:(?:modify|edit|change|touch|alter|rewrite)|be (?:modified|edited|changed|touched|altered|rewritten))",
    re.IGNORECASE,
)
IN_A_FILE = re.compile(
    rf"(?:^\W*|[,;:.(]\s*)(?:in|within|inside) {MARKS}{FILE.pattern}{MARKS},? ?(?:please )?$", re.IGNORECASE
)
BY_A_FILE = re.compile(rf"\bby {MARKS}{FILE.pattern}", re.IGNORECASE)
# `net.py`: frozen copy of the reference. But a frozen encoder is a part of the model in the file.
ENTITLED = re.compile(
    rf"(?P<file>{FILE.pattern}){MARKS}(?:[:|\u2013\u2014-]+|\bis)\s*(?:(?:an?|the|our) )?$", re.IGNORECASE
)
PART_OF_A_MODEL = re.compile(
    r"\s*(?:\w+ )?(?:encoder|decoder|backbone|trunk|layer|block|weight|parameter|embedding|feature|head|model|network"
    r"|net|array|tensor|view|property|attribute|field|buffer|mode|access|file system)",
    re.IGNORECASE,
)
DESCRIBES = re.compile(r"\b(?:does|did)\s*$", re.IGNORECASE)
PREDICTS = re.compile(r"\b(?:will|would)\s*$", re.IGNORECASE)
LICENSE = re.compile(r"\blicen[cs]e\b|\bredistribut|\bcopyright\b", re.IGNORECASE)
BETWEEN_NAMES = re.compile(r"[`*\"'\s]*(?:,|and|or|&)*[`*\"'\s]*")
MAY = r"(?:may|can|must|should|will|is|are|to|allowed|only|freely|just)"
MAY_CHANGE = re.compile(
    rf"\bagents?\b(?: {MAY}\b)* {EDITS} (?:only )?(?:the file )?{NAME}"
    rf"|\bonly {EDITS} (?:the file )?{NAME}"
    rf"|\bonly (?:the file )?{NAME}[^\n.;]{{0,20}} (?:may|can|should|must) be {EDITS}"
    rf"|{NAME}[^\n.;]{{0,30}}\bthe (?:only|single|one) file\b[^\n.;]{{0,40}}\b{EDITS}"
    rf"|\b(?:only|single|one) file\b[^\n.;]{{0,40}}\b{EDITS}[^\n.;]{{0,20}}?{NAME}"
    rf"|\b(?:except|other than|besides|apart from) (?:for )?(?:the file )?{NAME}",
    re.IGNORECASE,
)
CONFIGURATION = re.compile(
    r"^(pyproject\.toml|uv\.lock|poetry\.lock|Pipfile.*|requirements.*\.txt|setup\.(py|cfg)|environment\.ya?ml|tox\.ini"
    r"|pytest\.ini|conftest\.py|noxfile\.py|[Mm]akefile|justfile|package(-lock)?\.json|pnpm-lock\.yaml|yarn\.lock"
    r"|Cargo\.(toml|lock)|build\.rs|go\.(mod|sum)|CMakeLists\.txt|\.python-version)$"
)
CODE = (
    ".py",
    ".c",
    ".cc",
    ".cpp",
    ".cu",
    ".h",
    ".hpp",
    ".rs",
    ".go",
    ".js",
    ".ts",
    ".java",
    ".jl",
    ".rb",
    ".zig",
    ".metal",
)
NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
TEST_FOLDERS = ("tests", "test")
MOST_NAMED = 12
LONGEST_SAID = 400  # characters before and after a prohibition that say what it is about


@dataclass(frozen=True)
class Surface:
    """The files that may change, and those that must not.

    Attributes:
        mutable: globs of files that may change.
        harness: globs of files that prepare data or compute the metric.
        forbidden: globs of other files that must not change.
        read: files that the command reads, as far as detected.
        why: reason for the mutable files.
        judged_inside: whether a mutable file computes its own metric.
        by_name: files that must not change because of a part of their names, or that of their folder.
        also_run: files that the command runs besides its script, with those that they import.
    """

    mutable: tuple[str, ...]
    harness: tuple[str, ...]
    forbidden: tuple[str, ...]
    read: tuple[str, ...]
    why: str
    judged_inside: bool = False
    by_name: tuple[str, ...] = ()
    also_run: tuple[str, ...] = ()


def surface(candidate: Candidate, files: Files, wanted: list[str], locks: bool) -> Surface:
    """Return the surface of a command.

    Args:
        candidate: the command.
        files: the tracked text files.
        wanted: globs of --mutable, which override what is detected.
        locks: whether uv writes a lock file here, tracked or not.
    """
    tests = [path for path in files if _tests(path)]
    begin = tests if candidate.kind == "tests" else _stages(candidate, files)
    own = reached(begin, files)
    # What else the command runs launches the script, prepares its data or measures it.
    others = [path for path in scripts_of(candidate.command, files) if path not in begin]
    beside = [path for path in reached(others, files) if path not in own]
    read = sorted({*own, *beside})
    configuration = {path for path in files if _configures(PurePosixPath(path))}
    harness = [] if candidate.kind == "tests" else [*_harness(candidate, begin, own, files), *beside]
    asked = {*tests, *configuration, *said_fixed(files)}
    fixed = {*harness, *asked}
    mutable = [path for path in read if path not in fixed]
    why = "imported by the tests" if candidate.kind == "tests" else f"run or imported by `{candidate.command}`"
    named = [path for path in said_to_change(files) if path not in {*tests, *configuration}]
    unseen = not (candidate.script or "").endswith(".py")
    if named and candidate.kind != "tests" and (unseen or {*named} & {*read}):
        # The other files that it reads compute the metric, or at least should not be changed.
        mutable, why = named, "named in the README"
        harness = [path for path in read if path not in named and path not in {*tests, *configuration}]
        fixed = {*fixed, *harness} - {*named}
    if not mutable:
        mutable, named = _unseen(candidate, files, fixed)
        harness, why = [*harness, *named], "all source files: which of them the command reads is unknown"
    if not mutable and (left := _left(candidate, own, harness)) and asked.isdisjoint(left):
        mutable, harness = left, [path for path in harness if path not in left]
        why = "the only file of this repository that it is known to read"
    parts = [path for path in harness if _in_part(path, measures=_measures(candidate))]
    by_name = [path for path in parts if path not in {*begin, *asked, *beside}]
    globs = tuple(wanted) or _collapsed(mutable, fixed)
    judges = _collapsed_tests(tests) if candidate.kind == "tests" else sorted({*harness})
    forbidden = {*_collapsed_tests(tests), *configuration} | ({"uv.lock"} if locks else set())
    return Surface(
        mutable=globs,
        harness=tuple(path for path in judges if not _named(path, wanted)),
        forbidden=tuple(sorted(path for path in forbidden if not _named(path, wanted))),
        read=tuple(read),
        why="you named it" if wanted else why,
        judged_inside=not judges and any(matches(candidate.script or "", glob) for glob in globs),
        by_name=tuple(path for path in sorted(by_name) if not _named(path, wanted)),
        also_run=tuple(beside),
    )


def _stages(candidate: Candidate, files: Files) -> list[str]:
    """Return the script that a command is about, with the others that train: a pretrain.py before a finetune.py."""
    found = [candidate.script] if candidate.script else []
    if candidate.kind == "training":
        for path in scripts_of(candidate.command, files):
            makes = NAME_PART.findall(PurePosixPath(path).stem.lower())[:1]
            if path not in found and trains(path) and JUDGING.isdisjoint(makes) and not _judges(path, False):
                found.append(path)
    return found


def _left(candidate: Candidate, own: list[str], harness: list[str]) -> list[str]:
    """Return what may change after all where a benchmark reads no file that may.

    That is what it measures, although a part of its name says that it measures, or a benchmark that reads nothing else.
    """
    if candidate.kind != "benchmark" or candidate.script not in harness:
        return []
    if own == [candidate.script]:
        return own
    return [path for path in own if path != candidate.script and _in_part(path, measures=True)]


def _measures(candidate: Candidate) -> bool:
    """Return whether a command is a benchmark or runs tests, also of another language."""
    if candidate.script:
        return candidate.kind != "training" or _whole(candidate.script)
    return candidate.kind != "training" or MEASURES.search(candidate.command) is not None


def _harness(candidate: Candidate, begin: list[str], read: list[str], files: Files) -> list[str]:
    """Return the files that prepare data or measure, by name, with files that only those read.

    The script of a benchmark is one of them.
    """
    asked, measures = said_fixed(files), _measures(candidate)
    named = [path for path in read if path in asked or (path not in begin and _judges(path, measures))]
    others = {path: text for path, text in files.items() if path not in named or path in begin}
    direct = reached(begin, others)
    judge = [candidate.script] if candidate.kind == "benchmark" and candidate.script else []
    return list(dict.fromkeys([*judge, *named, *(path for path in read if path not in direct)]))


def _judges(path: str, measures: bool) -> bool:
    """Return whether a file prepares data or measures, by its name or that of its folder.

    Args:
        measures: whether the command is itself what measures, so that the names of its library say less.
    """
    return _whole(path) or _in_part(path, measures=measures)


def _whole(path: str) -> bool:
    pure = PurePosixPath(path)
    return HARNESS.match(pure.stem.lower()) is not None or not HARNESS_FOLDERS.isdisjoint(pure.parts[:-1])


def _in_part(path: str, *, measures: bool) -> bool:
    """Return whether only a part of the name of a file, or its folder, says that it prepares data or measures."""
    pure = PurePosixPath(path)
    parts = [part.lower() for part in NAME_PART.findall(pure.stem)]
    if _whole(path) or not parts or (parts[-1] in OF_A_MODEL and parts[0] not in JUDGING):
        return False
    if measures:
        return not OF_BENCHMARKS.isdisjoint(parts)
    folders = not FOLDERS_OF_DATA.isdisjoint(pure.parts[:-1])
    return folders or parts[0] in FIRST_OF_HARNESS or not HARNESS_PARTS.isdisjoint(parts)


def _tests(path: str) -> bool:
    in_folder = PurePosixPath(path).parts[0] in TEST_FOLDERS
    return in_folder or TEST_FILE.search(path) is not None or OTHER_TEST.search(path) is not None


def said_fixed(files: Files) -> dict[str, str]:
    """Return the files that must not change according to a header or the README, or whose header says they judge.

    Returns:
        The path of each file, and the sentence that says so.
    """
    found: dict[str, str] = {}
    headers = {path: header(text) for path, text in files.items() if path.endswith(CODE)}
    for line in prose(files).splitlines():
        found |= dict.fromkeys(_forbidden_in(line, files), line)
    for text in headers.values():
        # A sentence that names no file is about the file itself.
        for sentence in (each for line in text.splitlines() for each in _sentences(line) if FILE.search(each)):
            found |= dict.fromkeys(_forbidden_in(sentence, files), sentence)
    found |= {path: said for path, text in headers.items() if (said := _asks_to_be_left_alone(path, text))}
    return {path: one_line(said).strip(" #/*\"'") for path, said in found.items()}


def said_to_change(files: Files) -> list[str]:
    """Return the files that, according to the README, agents edit or that alone may be edited."""
    found = []
    for match in MAY_CHANGE.finditer(prose(files)):
        name = next(each for each in match.groups() if each)
        if not FIXED.search(match[0]):
            found += _meant(name, files)
    return sorted({*found} - {*said_fixed(files)})


def _asks_to_be_left_alone(path: str, said: str) -> str | None:
    """Return the sentence of a header by which its file must not change, or judges."""
    own = PurePosixPath(path).name
    for sentence in _sentences(said):
        for match in FIXED.finditer(sentence):
            others = {PurePosixPath(name).name for name in FILE.findall(sentence)} - {own}
            if not others and _forbids(sentence, match) and not PART_OF_A_FILE.match(sentence[match.end() :]):
                return sentence
    first = next((line for line in said.splitlines() if re.search(r"\w", line) and not line.startswith("#!")), "")
    return first if JUDGES.search(first) else None


def _forbids(sentence: str, match: re.Match[str]) -> bool:
    """Return whether a sentence forbids to change a file: by an order, or by what it says of the file."""
    before = sentence[max(0, match.start() - LONGEST_SAID) : match.start()]
    after = sentence[match.end() : match.end() + LONGEST_SAID]
    verb = (match["verb"] or "").lower()
    if LICENSE.search(sentence) or (verb and DESCRIBES.search(before)):
        return False
    alone = BEGINS_CLAUSE.search(before) is not None and ENDS_CLAUSE.match(after) is not None
    if _orders(match, before, after):
        return True
    if verb and not match["be"] and not verb.endswith("ed"):
        return alone or OBJECT.match(after) is not None
    stated = STATED_OF.search(before) or (None if PART_OF_A_MODEL.match(after) else ENTITLED.search(before))
    of_it = stated is not None and not (stated["file"] and WITHIN.search(_without_names(before[: stated.start()])))
    return alone or of_it or TREATED_AS.search(before) is not None


def _orders(match: re.Match[str], before: str, after: str) -> bool:
    """Return whether a prohibition is an order in whose sentence a file is, or holds, what must not change.

    Files that may change or that are told not to change something else do not count: Edit `train.py` and do not change
    the data.
    """
    order = ORDER.fullmatch(match[0])
    if order is None or PREDICTS.search(before) or (order["do"] and not BEGINS_CLAUSE.search(before)):
        return False
    if match["be"]:
        after = BY_A_FILE.split(after)[0]
    allowed = re.search(rf"\b{EDITS}", after, re.IGNORECASE)
    if FILE.search(after[: allowed.start()] if allowed else after):
        return True
    if re.search(rf"\b{EDITS}", before, re.IGNORECASE):
        return False
    of_it = STATED_OF.search(before) is not None or FILE.search(before) is not None
    return of_it if match["be"] or ENDS_CLAUSE.match(after) else IN_A_FILE.search(before) is not None


def _without_names(text: str) -> str:
    """Return a text without the enumeration of files at its end."""
    names = _last_named(text)
    return text[: text.rindex(names[-1])] if names and BETWEEN_NAMES.fullmatch(text.rpartition(names[0])[2]) else text


def _forbidden_in(line: str, files: Files) -> list[str]:
    """Return the files that a line of a README forbids to change.

    They are the files named after the prohibition, or else those that a list entry starts with, or else those named
    last before it.
    """
    found: list[str] = []
    subject = _first_named(line)
    before = ""
    for sentence in _sentences(line):
        for match in FIXED.finditer(sentence) if not EXCEPT.search(sentence) else ():
            if not _forbids(sentence, match):
                continue
            after = FILE.findall(sentence[match.start() :])
            meant = after or subject or _last_named(sentence[: match.start()]) or _last_named(before)
            found += [path for name in meant for path in _meant(name, files)]
        before = sentence if FILE.search(sentence) else before
    return found


def _first_named(line: str) -> list[str]:
    """Return the files that a list or table entry starts with: `- a.py, b.py: the engine`."""
    entry = re.match(r"\s*(?:[-*+|#]+|\d+[.)])[\s`*\"']*(?=[\w./-])", line)
    names: list[str] = []
    at = entry.end() if entry else -1
    while entry and (match := FILE.match(line, at)):
        names.append(match[1])
        gap = BETWEEN_NAMES.match(line, match.end())
        at = gap.end() if gap else len(line)
    return names


def _last_named(text: str) -> list[str]:
    """Return the file that a text names last, with those before it in the same enumeration: `a.py, b.py and c.py`."""
    names: list[re.Match[str]] = []
    for match in reversed([*FILE.finditer(text)]):
        if names and not BETWEEN_NAMES.fullmatch(text[match.end() : names[-1].start()]):
            break
        names.append(match)
    return [match[1] for match in names]


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.;!?])\s+|,? but |\n\s*\n", text)


def _meant(name: str, files: Files) -> list[str]:
    """Return the file with this path, or else the only one with this name."""
    name = name.removeprefix("./")
    if name in files:
        return [name]
    alike = [path for path in files if path.endswith(f"/{name}")]
    return alike if len(alike) == 1 else []


def _unseen(candidate: Candidate, files: Files, fixed: set[str]) -> tuple[list[str], list[str]]:
    """Return source files that a command may read undetected: those that may change, and those that judge by name.

    For a Python script these are the files in other languages, as its Python imports are detected.
    """
    python = (candidate.script or "").endswith(".py")
    sources = [path for path in files if path.endswith(CODE) and not (python and path.endswith(".py"))]
    judges = [path for path in sources if _judges(path, _measures(candidate))]
    return [path for path in sources if path not in fixed and path not in judges], judges


def _configures(path: PurePosixPath) -> bool:
    """Return whether a file is configuration, by its name. Below a folder, `setup.py` may be an ordinary module."""
    top_only = path.suffix == ".py" and path.name != "conftest.py"
    return CONFIGURATION.match(path.name) is not None and not (top_only and len(path.parts) > 1)


def reached(begin: Iterable[str], files: Files) -> list[str]:
    """Return `begin` and the Python files that it imports or names, directly or indirectly, sorted."""
    found: set[str] = set()
    waiting = list(begin)
    while waiting:
        path = waiting.pop()
        if path not in found and path in files:
            found.add(path)
            waiting += [other for other in _references(path, files[path]) if other in files]
    return sorted(path for path in found if path.endswith(".py") or path in begin)


def _references(path: str, source: str) -> Iterator[str]:
    """Yield possible paths of the modules that a file imports, and file names in its strings."""
    tree = parsed(source) if path.endswith(".py") else None
    if tree is None:
        return
    here = PurePosixPath(path).parent
    roots = {here, PurePosixPath(), PurePosixPath("src")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(alias.name.split("."), roots)
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            above = {[here, *here.parents][min(node.level - 1, len(here.parents))]} if node.level else roots
            for alias in node.names:
                yield from _files_of([*parts, alias.name], above)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            yield from (str(root / node.value) for root in roots)


def _files_of(parts: list[str], roots: Iterable[PurePosixPath]) -> Iterator[str]:
    """Yield possible files of a module: `a.b` may be a/b.py or a/b/__init__.py; both also load a/__init__.py."""
    for root in roots:
        for count in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:count])
            yield f"{stem}.py"
            yield f"{stem}/__init__.py"


def _collapsed(paths: list[str], fixed: set[str]) -> tuple[str, ...]:
    """Return the paths, or if there are many, globs of their folders that match no file which must not change."""
    if len(paths) <= MOST_NAMED:
        return tuple(paths)
    globs = set()
    for path in paths:
        pure = PurePosixPath(path)
        glob = f"{pure.parts[0]}/**/*{pure.suffix}" if len(pure.parts) > 1 else path
        globs.add(path if any(matches(other, glob) for other in fixed) else glob)
    return tuple(sorted(globs))


def _collapsed_tests(tests: list[str]) -> list[str]:
    folders = sorted({PurePosixPath(path).parts[0] for path in tests} & {*TEST_FOLDERS})
    loose = [path for path in tests if PurePosixPath(path).parts[0] not in folders]
    python = {
        folder: all(path.endswith(".py") for path in tests if path.startswith(f"{folder}/")) for folder in folders
    }
    return [*(f"{folder}/**/*.py" if python[folder] else f"{folder}/**" for folder in folders), *sorted(loose)]


def _named(path: str, wanted: list[str]) -> bool:
    """Return whether one of the user's globs is this path, or a glob with the same start."""
    return any(path == glob or ("*" in path and glob.startswith(path.split("*")[0])) for glob in wanted)
