"""Find commands to research in a repository: training scripts, benchmarks, tests.

`files` maps path to text throughout: the tracked text files, with paths relative to the workspace and forward slashes.
"""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from agent.init.names import slug
from agent.init.numbers import in_lines
from agent.source.constants import parsed

Kind = Literal["training", "benchmark", "tests"]
Files = Mapping[str, str]
TRAINING = re.compile(r"(^|_)(pre|fine)?_?(train|trainer|training|tune)(_|$)")
# Other names of a stage of training. They do not make a command a likely one.
STAGE = re.compile(r"(^|_)(pre|fine|post)?_?(train|trainer|training|tune|tuning|fit|fitting|distill|sft)\d*(_|$)")
BENCHMARK = re.compile(r"(^|_)(bench|benchmarks?|perf|profile|speed|eval|evaluate)(_|$)")
ENTRY = re.compile(r"^(main|run|solve|experiment|__main__)$")
# READMEs name these as well, but they prepare, demonstrate or serve.
OTHER = re.compile(
    r"(^|_)(prepare|download|preprocess|install|setup|sample|generate|plot|demo|serve|server|app|export|convert|infer"
    r"|inference|chat|web|conftest|test|tests)(_|$)"
)
# Drivers of the repository's own research loop, which this program replaces.
OWN_LOOP = re.compile(
    r"(^|_)(loop|agents?|auto_?research\w*|autonomous\w*|orchestrat\w*|driver|supervisor|controller|researchers?|evolve"
    r"|evolution|miner|sweep|nightly|overnight)(_|$)"
)
COMMITS = re.compile(
    r"[\"']git[\"']\s*,[^\n]{0,30}[\"'](commit|reset|checkout|revert|stash)[\"']"
    r"|[\"'`]git (commit|reset|checkout|revert|stash)\b"
)
ASKS_A_MODEL = re.compile(r"^\s*(import|from) (anthropic|openai|litellm|ollama)\b", re.MULTILINE)
CALLS_ITSELF = re.compile(
    r"\b(autonomous (loop|agent|driver|research\w*)"
    r"|(research|experiment|agent|improvement|optimi[sz]ation) (loop|driver)s?"
    r"|keeps? what is better|keeps? or (reverts?|discards?))\b",
    re.IGNORECASE,
)
TEST_FILE = re.compile(r"(^|/)(test_[^/]*|[^/]*_test)\.py$")
REDIRECTED = re.compile(r"\s*[\d&]?>.*|\s*\|.*")
TESTS = re.compile(r"(^|_)(tests?|spec)(_|$)")
OPENS = re.compile(r"[rRuU]?(\"\"\"|'''|/\*)")
COMMENTS = ("#", "//", ";", "--", '"', "'")
README_BONUS, LAST, LONGEST_HEADER = 100, 500, 60
RUNNERS = ("uv run", "poetry run", "pdm run", "hatch run", "pixi run", "pipenv run")
STARTS = r"(?:\w+=\S+\s+)*(?:uv run|poetry run|python3?|pytest|make|bash|sh|\./)\b"
CODE_LINE = re.compile(rf"^\s*(?:[$>%]\s+)?({STARTS}.*)$")
# Commands of a README whose scripts are not found, for a hint: those of other languages that build, run or measure.
OTHER_COMMAND = re.compile(
    r"^[ \t]*(?:[$>%]\s+)?((?:npm|pnpm|yarn|npx|node|bun|deno|cargo|go|julia|Rscript|ruby|perl|php|lua|zig|swift|dotnet"
    r"|mvn|gradle|\./\w+|just|task|ctest)[ \t]+"
    r"(?!(?:install|i|ci|add|get|build|update|init|new|fmt|mod|lint)\b)[^\n`#]+)$"
)
ENDS_COMMAND = re.compile(r"[;&|()]+")
IN_OWN_FOLDER = re.compile(r"^(\./|\$\(dirname [^)]*\)/|\$\{?\w+\}?/)+")  # `"$DIR"/train.py` of a shell script
# Words after which a path is run: interpreters, and what starts them.
STARTER = re.compile(
    r"(python|pypy)[\d.]*|ipython|pytest|bash|sh|zsh|dash|ksh|node|bun|deno|ruby|perl|source|\.|uvx?|run|launch|torchrun"
    r"|accelerate|deepspeed|mpirun|mpiexec|srun|sbatch|cProfile|kernprof|scalene|exec|eval|time|env|nohup|nice|ionice"
    r"|taskset|stdbuf|timeout|caffeinate|sudo|command|if|then|elif|else|do|while|until|!|{"
)
OPTION = re.compile(r"-|\w+=|[\d.]+[smhd]?$")  # or an assignment or a number, as in `timeout 60 python train.py`
INLINE = re.compile(rf"`({STARTS}[^`]*)`")


@dataclass(frozen=True)
class Candidate:
    """A command that may be worth researching.

    Attributes:
        script: the tracked file that it runs, None if unknown.
        why: where the command was found.
        weight: how likely it is the right command.
    """

    command: str
    kind: Kind
    script: str | None
    why: str
    weight: int = 0


def candidates(files: Files, python: str) -> list[Candidate]:
    """Return the commands found, most likely first.

    Args:
        files: the tracked text files.
        python: what runs a script here, such as `uv run` or `python`.
    """
    found = [
        *_of_readme(files, python),
        *_of_makefile(files, python),
        *_of_names(files, python),
        *_of_tests(files, python),
    ]
    best: dict[str, Candidate] = {}
    for candidate in found:
        if candidate.weight > best.get(candidate.command, candidate).weight or candidate.command not in best:
            best[candidate.command] = candidate
    return sorted(best.values(), key=lambda c: (-c.weight, len(c.command), c.command))


def candidate_named(command: str, files: Files) -> Candidate:
    """Return the candidate for a command that the user named."""
    script = script_of(command, files)
    return Candidate(command, _kind(command, script), script, "you named it")


def uses_uv(files: Files) -> bool:
    """Return whether the project uses uv: by its lock file, its pyproject.toml or its README."""
    project = _pyproject(files)
    told = any(re.search(r"\buv (run|sync)\b", text) for name, text in files.items() if _is_prose(name))
    pip = any(re.search(r"\bpip install\b|\bconda\b", text) for name, text in files.items() if _is_prose(name))
    return "uv.lock" in files or "uv" in project.get("tool", {}) or told or ("project" in project and not pip)


def is_project(files: Files) -> bool:
    return "project" in _pyproject(files)


def prose(files: Files) -> str:
    """Return the text of README, program.md and similar files."""
    return "\n".join(text for name, text in files.items() if _is_prose(name))


def printed(source: str) -> str:
    """Return what a Python file prints, one line per call, with 1.0 for unknown values: `val_bpb: 1.0`.

    If no line contains a metric, add the keys of its dictionaries, which may be printed as JSON.
    """
    tree = parsed(source)
    if tree is None:
        return ""
    lines, keys = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in ("print", "info", "write", "log", "echo"):
            lines.append(" ".join(_shown(argument) for argument in node.args))
        elif isinstance(node, ast.Dict):
            keys += [f"{k.value}: 1.0" for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
    said = "\n".join(lines)
    return said if any(found.direction for found in in_lines(said)) else "\n".join([*lines, *keys])


def has_name(source: str, name: str) -> bool:
    """Return whether a string of a Python file, other than a docstring, contains the name of a metric: `Val Loss: `."""
    tree = parsed(source)
    if tree is None:
        return False
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(f"_{name}_" in f"_{slug(str(node.value))}_" for node in strings if id(node) not in docstrings)


def script_of(command: str, files: Files) -> str | None:
    """Return the tracked file that is worth changing among those that `command` runs.

    It is the last Python file that trains, by its name. What runs before or after it, or launches it, prepares data or
    measures.
    """
    scripts = scripts_of(command, files)
    python = [path for path in scripts if path.endswith(".py")]
    if stages := [path for path in python if trains(path)]:
        return stages[-1]
    for kind in (TRAINING, ENTRY, BENCHMARK):
        if found := [path for path in python if kind.search(_stem(path)) and not OTHER.search(_stem(path))]:
            return found[-1]
    others = [path for path in python if not OTHER.search(_stem(path))] or python or scripts[:1]
    return others[-1] if others else None


def trains(path: str) -> bool:
    """Return whether a script trains, by its name."""
    stem = _stem(path)
    return STAGE.search(stem) is not None and not OTHER.search(stem) and not BENCHMARK.search(stem)


def scripts_of(command: str, files: Files) -> list[str]:
    """Return the tracked files that `command` runs, in order, with those that its shell scripts run.

    `uv run python -m pkg.train --fast` runs pkg/train.py, and `cd ml && bash run.sh` runs ml/run.sh.
    """
    found: list[str] = []
    waiting = [(command, PurePosixPath())]
    while waiting:
        text, folder = waiting.pop(0)
        for words in _commands(text):
            if words[0] == "cd":  # to its own folder, which is tried anyway, or to one of the repository
                folder /= words[1] if len(words) > 1 and "$" not in words[1] else ""
            elif (path := _run_by(words, folder, files)) is not None and path not in found:
                found.append(path)
                if path.endswith(".sh"):
                    waiting += [(files[path], folder), (files[path], PurePosixPath(path).parent)]
    return found


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell script or command line."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        with contextlib.suppress(ValueError):  # an open quote, as of a text of several lines
            for word in lexer:
                if not ENDS_COMMAND.fullmatch(word):
                    words.append(word)
                elif words:
                    yield words
                    words = []
        if words:
            yield words


def _run_by(words: list[str], folder: PurePosixPath, files: Files) -> str | None:
    """Return the tracked file that a command runs: its first word, or the first path after an interpreter.

    `ruff check net.py` reads the file without running it.
    """
    runs = True
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m" and runs and word != "pytest":
            stem = word.replace(".", "/")
            options = [f"{root}{stem}{end}" for root in ("", "src/") for end in (".py", "/__main__.py")]
            if found := next((str(folder / path) for path in options if str(folder / path) in files), None):
                return found
        path = str(folder / IN_OWN_FOLDER.sub("", word))
        if runs and path in files and PurePosixPath(path).suffix in (".py", ".sh", ".js", ".rb", ".pl", ""):
            return path
        if STARTER.fullmatch(word.rpartition("/")[2].rpartition(".")[2] if before == "-m" else word.rpartition("/")[2]):
            runs = True
        elif not OPTION.match(word) and not OPTION.match(before):
            runs = False
    return None


def _stem(path: str) -> str:
    return PurePosixPath(path).stem.replace("-", "_").lower()


def _of_readme(files: Files, python: str) -> Iterator[Candidate]:
    for name, text in files.items():
        if not _is_prose(name):
            continue
        for number, line in _code(text):
            command = REDIRECTED.sub("", line.split("#")[0].split("&&")[-1]).strip()
            if not re.search(r"[<\[|\\$`]|\.\.\.", command):
                yield from _weighed(_by(command, python), files, f"from line {number} of {name}", README_BONUS)


def other_command(files: Files) -> str | None:
    """Return the command of a README that most likely measures something in another language than Python."""
    found: list[str] = []
    for line in (line for name, text in files.items() if _is_prose(name) for line in _lines_of_code(text)):
        if (match := OTHER_COMMAND.match(line)) and not re.search(r"[<\[|\\$]|\.\.\.", match[1]):
            found.append(REDIRECTED.sub("", match[1]).strip())
    telling = [
        each for kind in (BENCHMARK, TRAINING, TESTS) for each in found if kind.search(re.sub(r"\W+", "_", each))
    ]
    return next(iter([*telling, *found]), None)


def _lines_of_code(text: str) -> Iterator[str]:
    """Yield the lines of a README that are fenced, indented, after a `$`, or in backticks."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif fenced or line.startswith(("    ", "\t", "$ ")):
            yield line
        else:
            yield from re.findall(r"`([^`]*)`", line)


def _code(text: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of a README with their line numbers: fenced, indented, after a `$`, or in backticks."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif fenced or line.startswith(("    ", "\t", "$ ")):
            if match := CODE_LINE.match(line):
                yield number, match[1]
        else:
            yield from ((number, match[1]) for match in INLINE.finditer(line))


def _of_makefile(files: Files, python: str) -> Iterator[Candidate]:
    name = next((n for n in ("Makefile", "makefile") if n in files), "")
    for match in re.finditer(r"^([\w-]+):[^=\n]*\n((?:\t.*\n?)+)", files.get(name, ""), re.M):
        recipe = [line.strip().lstrip("@-") for line in match[2].splitlines() if line.strip()]
        one = recipe[0] if len(recipe) == 1 and "$" not in recipe[0] else None
        command = _by(one, python) if one and script_of(one, files) else f"make {match[1]}"
        yield from _weighed(command, files, f"target {match[1]} of {name}", 5, match[1])


def _of_names(files: Files, python: str) -> Iterator[Candidate]:
    for path in files:
        pure = PurePosixPath(path)
        if pure.suffix == ".py" and len(pure.parts) <= 3 and _is_main(files[path], pure):
            bonus = -5 * (len(pure.parts) - 1) - (0 if does(files[path]) else LAST)
            yield from _weighed(f"{python} {shlex.quote(path)}", files, f"found {path}", bonus)
    for name, target in _pyproject(files).get("project", {}).get("scripts", {}).items():
        if python == "uv run" and isinstance(target, str):
            yield from _weighed(f"uv run {name}", files, f"script {name} of pyproject.toml", -3, name)


def _of_tests(files: Files, python: str) -> Iterator[Candidate]:
    tests = [path for path in files if TEST_FILE.search(path)]
    if tests:
        runner = "uv run" if python == "uv run" else f"{python} -m"
        why = f"found tests, such as {min(tests, key=lambda path: (path.count('/'), path))}"
        yield Candidate(f"{runner} pytest -q --color=no -p no:cacheprovider", "tests", None, why, 60)


def _weighed(command: str, files: Files, why: str, bonus: int, name: str = "") -> Iterator[Candidate]:
    """Yield the command with its weight; nothing if it runs no tracked file and its name is not telling."""
    script = script_of(command, files)
    stem = name.replace("-", "_").lower() or (PurePosixPath(script).stem.lower() if script else "")
    if re.search(r"\bpytest\b", command) or not stem or OTHER.search(stem):
        return  # tests are found by their files
    if is_own_loop(stem, files.get(script or "", "")) or (script and is_own_loop(PurePosixPath(script).stem, "")):
        return
    hints = any(found.direction for found in in_lines(printed(files.get(script or "", ""))))
    weight = 100 if TRAINING.search(stem) else 90 if BENCHMARK.search(stem) else 40 if ENTRY.search(stem) else 0
    if not weight and not (script and hints):
        return
    yield Candidate(command, _kind(command, script, stem), script, why, (weight or 30) + bonus + (30 if hints else 0))


def is_own_loop(stem: str, source: str) -> bool:
    """Return whether a script runs experiments itself, by its use of git, its name or its header."""
    stem = stem.replace("-", "_").lower()
    if COMMITS.search(source):
        return True
    if TRAINING.search(stem) or BENCHMARK.search(stem):
        return False
    return any((OWN_LOOP.search(stem), ASKS_A_MODEL.search(source), CALLS_ITSELF.search(header(source))))


def header(source: str) -> str:
    """Return the docstring and comments before the first line of code."""
    said: list[str] = []
    end = ""
    for line in source.splitlines()[:LONGEST_HEADER]:
        rest = text = line.strip()
        if not end and (opened := OPENS.match(text)):
            end, rest = opened[1].replace("/*", "*/"), text[opened.end() :]
        elif not end and text and not text.startswith(COMMENTS):
            break
        said.append(text)
        end = "" if end and end in rest else end
    return "\n".join(said)


def _kind(command: str, script: str | None, name: str = "") -> Kind:
    if re.search(r"\bpytest\b", command):
        return "tests"
    stem = name or (PurePosixPath(script).stem.lower() if script else command.lower())
    return "benchmark" if BENCHMARK.search(stem) and not TRAINING.search(stem) else "training"


def _by(command: str, python: str) -> str:
    """Return a README's command, such as `python train.py`, with the runner used here."""
    bare = command
    for runner in RUNNERS:
        bare = bare.removeprefix(runner).strip()
    bare = re.sub(r"^python3?\s+", "", bare)
    if bare == command or bare.startswith(("pytest", "make")):
        return command
    return f"{python} {'python ' if python == 'uv run' and bare.startswith('-m ') else ''}{bare}"


def _is_main(source: str, path: PurePosixPath) -> bool:
    stem = path.stem.lower()
    return bool(TRAINING.search(stem) or BENCHMARK.search(stem) or ENTRY.search(stem) or "__main__" in source) and (
        not any(part in ("tests", "test", "docs") for part in path.parts)
    )


def does(source: str) -> bool:
    """Return whether a Python file does anything when run, other than definitions and assignments."""
    tree = parsed(source)
    if tree is None:
        return True
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    words = (node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)))
    return any(not isinstance(node, quiet) for node in words)


def _is_prose(name: str) -> bool:
    return re.fullmatch(r"readme(\.\w+)?|(contributing|program|claude|agents)\.md", name, re.IGNORECASE) is not None


def _pyproject(files: Files) -> dict[str, Any]:
    try:
        return tomllib.loads(files.get("pyproject.toml", ""))
    except tomllib.TOMLDecodeError:
        return {}


def _called(node: ast.Call) -> str:
    function = node.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _shown(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "1.0" for part in node.values)
    return "1.0"
