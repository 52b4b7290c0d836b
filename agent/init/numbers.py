"""Find the named numbers of a command's output, each with a rule that extracts it.

A number is offered only if `protocol.extract` finds it in the same text with the same rule.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.errors import NoMetric
from agent.format import printed
from agent.init.names import SETTINGS, SPEED, TIME, WORDS, Direction, is_named, meaning, slug, words_of
from agent.protocol.extract import extract, last_json
from agent.protocol.models import LONGEST_NAME, Metric

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
# What programs print in place of a number, also as in `tensor(nan)`. With digits only, a run that diverged would be
# read at an earlier place.
NO_NUMBER = r"(?:\w+\()?[-+]?(?i:nan|inf(?:inity)?|none|null|n/a)(?!\w)"
# What a rule captures after a sign. Without one, a word after the name may be that of a sentence which only some runs
# print: `Validation loss decreased`. After a sign these are: `Early stopping on val_loss: no improvement`.
SENTENCE = (
    r"(?![ \t]*(?i:not?|did|does|has|have|is|was|improved?|(?:de|in)creased|reduced|best|new|plateau\w*|converged)\b)"
)
ANY_WORD = rf"{SENTENCE}[^\s,;|│┃)\]}}]*"
BEGINS_NUMBER = r"[-+]?\.?\d"
CLOCK = r"[-+]?\d+:\d\d(?!\d)"  # a time such as 1:02, which is no number
MICRO = "\u00b5\u03bc"  # two letters that look the same
LETTER = rf"[A-Za-z{MICRO}]"
# Units after a number, which say what a speed is: `5.1 ms/image` is a time.
PER = r"(?:[ \t]*/[ \t]*|[ \t]+per[ \t]+)"
RATE_UNIT = re.compile(rf"[ \t]*(?:[A-Za-z]+{PER}(?:s|secs?|seconds?|min|minutes?|h|hours?)|[kMG]?Hz|fps)\b")
TIME_UNIT = re.compile(
    rf"[ \t]*(?:[m{MICRO}un]?s|secs?|(?:milli|micro|nano)?seconds?|mins?|minutes?|hours?)\b({PER}[A-Za-z])?"
)
# The unit of a number, which a rule names: a number in another one is none, because 1.3 s are not less than 800 ms.
# What is next to the number belongs to it; after a space, only what is no word of a sentence and no name of another.
OF_UNIT, MORE_OF_UNIT = rf"(?:{LETTER}|[%\u00b2\u00b3])", rf"/{LETTER}"
ATTACHED = re.compile(rf"{OF_UNIT}++(?:/{LETTER}++)*+")
SIZES = rf"[kKMGT]?i?[Bb](?:ytes?|its?)?|[m{MICRO}un]?s|m?secs?|(?:milli|micro|nano)?seconds?|mins?|minutes?|h|hours?"
APART = re.compile(
    rf"[ \t]+(?:{LETTER}+{PER}{LETTER}+(?![ \t]+[-+.]?\d)|%|[kKMGT]?Hz|fps|{SIZES}|[kKMG][ \t]+[A-Za-z]+/s)"
    r"(?![\w/]|[ \t]*[:=])"
)
# A unit and no name if a number precedes it that is not the one of a counter: `106060 ns   106050 ns   6600`, `0 B/op`.
UNIT = re.compile(rf"(?:{SIZES})(?:/\w+)?")
COUNTED = re.compile(r"([A-Za-z]+)?[ \t]*[:=#\[]?[ \t]*[\d,./]*\d[\])]?[ \t]*([|│┃,])?[ \t]*$")
ENDS_LINE = re.compile(r"[ \t]*[|│┃]?[ \t]*(?:$|\n)")
# A setting of what follows the bracket: `Average Precision @[ IoU=0.50 | area=all ] = 0.581`.
OPEN_BRACKET, CLOSED_NAME = re.compile(r"@[ \t]*\[[^\[\]]*$"), re.compile(r"[^\[\]\n]*\][ \t]*[:=]")
MORE_DIGITS = r"(?:[.,]?\d)*"  # of a number with thousands apart
OF_ANOTHER_UNIT = rf"(?!{MORE_DIGITS}{OF_UNIT})"  # after a number of which the rule names no unit
OF_A_FOLD = 15  # penalty of one part of a cross-validation: the mean of all comes before it
FOLD = re.compile(r"\b(?:fold|split|cv)[ \t#:_=(\[]{0,3}\d+\b", re.IGNORECASE)
QUALIFIERS = (
    r"(?:val|valid|validation|test|train|training|eval|dev|cv|oof|cross[- ]?val(?:idat(?:ion|ed))?|held[- ]?out|holdout"
    r"|final|best|mean|median|avg|average|total|elapsed|wall|peak)"
)
# A number as in NUMBER or with thousands apart, and names: both without another try, because a shorter one never fits
# and a long line has many.
PRINTED = r"[-+]?(?:(?:[1-9]\d{0,2}(?:,\d{3})++(?!\d)|\d++)(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+"
OF_TIME = rf"{PRINTED}[ \t]++[m{MICRO}un]?s"
# Lines of which the form says what their number is: of Go, Google Benchmark, hyperfine, criterion (whose second number
# is the estimate), and COCO's evaluation.
OF_A_FORM = tuple(
    re.compile(form, re.MULTILINE)
    for form in (
        rf"^(?P<head>(?P<name>Benchmark[\w/]*+)\S*+[ \t]++\d++[ \t]++)(?P<number>{PRINTED})"
        rf"[ \t]++(?P<unit>[m{MICRO}un]?s/op)\b",
        rf"^(?P<head>(?P<name>[A-Za-z_]\w*+)[^\s|]*+[ \t]++)(?P<number>{PRINTED})[ \t]++(?P<unit>[mun]?s)"
        r"[ \t]++[\d.]++[ \t]++[mun]?s[ \t]++\d++\b",
        rf"^(?P<head>[ \t]*+(?P<name>Time) \(mean ± \S\):[ \t]+)(?P<number>{PRINTED})[ \t]+(?P<unit>[m{MICRO}un]?s)\b",
        rf"^(?P<head>[ \t]*+(?P<name>(?:\S[^\n\[]{{0,80}}?[ \t])?[ \t]*time):[ \t]+\[)(?P<low>{OF_TIME}[ \t]++)"
        rf"(?P<number>{PRINTED})[ \t]++(?P<unit>[m{MICRO}un]?s)[ \t]++{OF_TIME}\]",
        rf"^(?P<head>[ \t]*+(?P<name>[A-Z][A-Za-z]*+(?: [A-Za-z]++){{0,5}}+)[ \t]*+\([A-Z]+\)[ \t]*"
        rf"@\[[^\[\]\n]*+\][ \t]*=[ \t]*)(?P<number>{PRINTED})(?P<unit>)[ \t]*$",
    )
)
PAIR = re.compile(
    rf"(?<![A-Za-z_])(?P<before>(?:\b{QUALIFIERS}[ \t]+){{0,8}})"
    r"(?P<name>[A-Za-z_][\w./@-]*+)(?P<unit>[ \t]*\([\w/ %.]+\))?"
    r"(?P<count>[ \t]+\d[\d,]*+(?=[ \t]*[:=][ \t]))?"
    r"""(?P<between>["']?[ \t]*[:=][ \t]*|[ \t]*[|│┃][ \t]*|[ \t]+)"""
    rf"(?!{CLOCK})(?P<number>{PRINTED})(?![\w.,]*\d)",
    re.IGNORECASE,
)
PLACE = re.compile(r"[\w./@-]+\.[A-Za-z]{1,5}:\d+(?=:)")  # `tests/test_core.py:3: AssertionError`
DIVERGED = re.compile(
    rf"(?<![A-Za-z_])(?P<before>(?:\b{QUALIFIERS}[ \t]+){{0,8}})(?P<name>[A-Za-z_][\w./@-]*+)"
    r"""["']?[ \t]*[:=|│┃][ \t]*(?:\w+\()?[-+]?(?:nan|inf(?:inity)?)(?!\w)""",
    re.IGNORECASE,
)
SPLIT = r"(?<![\w./-])(?i:val(?:id(?:ation)?)?|test|eval|dev|train(?:ing)?)(?![\w/-]|\.\w)"
# Where it says what the numbers after it on its line are of: `Test set: Average loss: 0.3`, `[val] loss: 0.3`. In
# `loss 0.3 (train), acc 0.9` it is about the number before.
MARKER = re.compile(
    rf"[\[(][ \t]*{SPLIT}[ \t]*[\])](?![ \t]*[,;])|{SPLIT}(?:[ \t]+(?i:set|split|data|epoch)\b[^:\n|]{{0,20}})?[ \t]*:"
)
# In `Accuracy of the network on the 10000 test images: 54 %` the name is not next to the number.
BEFORE_ABOUT = re.compile(
    rf"(?<![\w./-])(?:{QUALIFIERS}[ \t]+){{0,8}}[A-Za-z][\w@./-]*+"
    r"(?=[ \t]+(?:on|over|after|of|for|at|in|across|with|from)[ \t])",
    re.IGNORECASE,
)
# What a number after it is, if none is part of the label: `Lowest loss in epoch: 29`, but `Loss over 10 episodes: 0.3`.
COUNTERS = set(
    "epoch step iter iteration episode round fold trial seed threshold k layer batch size rate number index idx id run"
    " generation attempt rank".split()
)
EPOCHS = {"epoch", "step", "iter", "iteration", "round", "episode"}
LONGEST_LABEL = 150
DIGITS = re.compile(r"\d[\d,.]*")
# Meters print the last batch and then the mean of all: `Test: [10/10] Time: 0.1 (0.2) Loss: 0.9 (1.1)`. What is in the
# parentheses of other lines may be a standard deviation, or the best so far.
COUNTER = re.compile(
    r"^.{0,100}?\b(?i:epoch|iter(?:ation)?|step|batch|test|train(?:ing)?|val(?:id(?:ation)?)?|eval)\b"
    r":?[ \t]*(?:\d+[ \t]*)?(?:\[[ \t]*\d+[ \t]*\])?\[[ \t]*\d+/\d+[ \t]*[\](]"  # not a date
)
METER = re.compile(rf"[A-Za-z][\w@./]*+:?[ \t]+{PRINTED}[a-z]*(?:,[ \t]*[\d.]+/s)?[ \t]*\([ \t]*{PRINTED}")
AVERAGE = re.compile(rf"[ \t]*\([ \t]*({PRINTED})[ \t]*\)")
# How much a number varies: `std dev error: 0.1`, `std of accuracy: 0.02`. In `mean/std accuracy: 0.9 0.1` the mean is
# first.
DEVIATION = re.compile(
    r"(?P<mean>\b(?:mean|avg|average)[ \t]*(?:[/,&+±-]|and\b|\+-)*[ \t]*)?"
    r"\b(?:std|stdev|stddev|standard[ \t]+(?:dev|err)\w*)\b[A-Za-z_ \t.]{0,25}$",
    re.IGNORECASE,
)
LONGEST_DEVIATION = 60
# No result: `[LightGBM] [Info] Start training from score -0.1`.
STARTS_FROM = re.compile(r"\bfrom[ \t]+$")
# What the score of this line is: `Metric val_loss improved by 0.1 >= min_delta = 0.0. New best score: 0.354`.
IMPROVED = re.compile(r"\bmetric[ \t]+([\w./-]+)[ \t]+improved\b[^\n]*$", re.IGNORECASE)
LEAST_OF_SPLIT = 85  # weight of losses, scores and errors: a time after `val` is not one of the held-out data
LONG_LINE = re.compile(r"[^\n]{2000,}")
LARGEST = 1e300
MOST_TRIES = 10  # places of a label for which a rule is sought: the last one decides, and each try reads the whole log
LONGEST_TEXT, MOST_NAMES, LONGEST_EXAMPLE = 200_000, 60, 4000


@dataclass(frozen=True)
class Found:
    """A named number in the output.

    Attributes:
        direction: None if unknown.
        weight: how likely it is the metric.
        extract: the extraction rule, as in protocol.json.
        where: where it was found, in words.
        begin: offset in the log of its line; None if it is elsewhere.
        listed: whether it is in a list of JSON with one place for each epoch, of which no index is always the last.
    """

    name: str
    value: float
    direction: Direction | None
    weight: int
    extract: dict[str, Any]
    where: str
    begin: int | None = None
    listed: bool = False

    @property
    def metric(self) -> dict[str, Any]:
        return {"name": self.name, "direction": self.direction, "extract": self.extract}


def in_output(text: str, wanted: str | None = None) -> list[Found]:
    """Return every number of a log: in its JSON, and after a name in its lines.

    Args:
        wanted: a name that counts without a colon after it, whatever it means.
    """
    text = printed(text).replace("\r", "\n")
    return [*in_json(text), *in_lines(text, wanted), *_in_forms(_without_long_lines(text))]


def _without_long_lines(text: str) -> str:
    """Blank very long lines, such as images in base64: they contain no metric and take quadratic time."""
    return LONG_LINE.sub(lambda line: "\n" * len(line[0]), text)


def in_json(text: str, path: str | None = None) -> list[Found]:
    """Return the numbers of the JSON that `text` is or ends with.

    Args:
        text: a log, or the content of a file.
        path: the file that the text comes from, None for the log.
    """
    try:
        content = last_json("the metric", text)
    except NoMetric:
        return []
    found, begin = [], _json_begin(text) if path is None else None
    for keys, value, listed in _leaves(content, ()):
        names = [key for key in keys if not key.isdigit()] or ["value"]
        # In `/latency/p99`, only the last two keys together are meaningful.
        shown = next((n for n in (slug("_".join(names[-k:])) for k in (1, 2, 3)) if meaning(n)[0]), slug(names[-1]))
        pointer = "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in keys)
        rule: dict[str, Any] = {"kind": "json_pointer", "pointer": pointer}
        if path is not None:
            rule["path"] = path
        elif example := _json_example(text):
            rule["exampleStdout"] = example
        each = _found(shown, value, rule, f"{pointer} in {path or 'the printed JSON'}")
        found.append(dataclasses.replace(each, begin=begin, listed=listed))
    return found


def in_lines(text: str, wanted: str | None = None) -> list[Found]:
    """Return numbers after a name: `val_loss: 1.23`, `epoch 3 acc=0.91`, `took 0.5s`, `| reward | 52.1 |`.

    They are in the order of the text. The last occurrence of a repeated name counts.

    Args:
        wanted: a name that counts without a colon after it, whatever it means.
    """
    plain: dict[str, tuple[int, Found]] = {}
    derived: dict[str, tuple[int, Found]] = {}  # a plain name counts before one that was put together
    failed: collections.Counter[str] = collections.Counter()
    text = _without_long_lines(text)
    for match in list(PAIR.finditer(text, max(0, len(text) - LONGEST_TEXT)))[::-1]:
        label = _label_of(text, match)
        found = plain if label.title == label.text else derived
        bare = not re.search("[:=]", match["between"])
        unnamed = bare and meaning(label.name)[0] is None and not (wanted and is_named(label.name, wanted))
        rest = text[match.end() : match.end() + LONGEST_LABEL]
        is_place = PLACE.match(text, match.start("name")) is not None
        if (
            is_place
            or _is_unit(text, label, rest, bare=bare)
            or (OPEN_BRACKET.search(_line_before(text, label)) and CLOSED_NAME.match(rest))
        ):
            continue
        if label.name in found or len(found) >= MOST_NAMES or len(label.name) > LONGEST_NAME or unnamed:
            continue
        words = DIGITS.sub("", label.text)
        begin = text.rfind("\n", 0, label.start) + 1
        before = text[begin : label.start]
        if failed[words] >= MOST_TRIES or _is_deviation(before, label) or (bare and STARTS_FROM.search(before)):
            continue
        if (candidate := _in_line(text, match, label)) is not None:
            found[label.name] = match.start(), dataclasses.replace(_by_line(candidate, before), begin=begin)
        else:
            failed[words] += 1
    return [found for _, found in sorted(({**derived, **plain}).values(), key=lambda each: each[0])]


def _line_before(text: str, label: _Label) -> str:
    """Return what stands before a label on its line."""
    return text[max(text.rfind("\n", 0, label.start) + 1, label.start - LONGEST_LABEL) : label.start]


def _is_unit(text: str, label: _Label, rest: str, *, bare: bool) -> bool:
    """Return whether a label is the unit of the number before it, and no name of the number after it.

    It is a name after a comma: `n=64, ms 12.3`. If the number after it ends the line, it is also one in a cell of its
    own, as in `| 512 | ms | 12.3 |`, and where the number before has a name: `matmul 64 ms 12.3`.

    Args:
        rest: what follows the number after the label.
        bare: whether no sign is between them.
    """
    if not bare or not UNIT.fullmatch(label.text):
        return False
    before = COUNTED.search(_line_before(text, label))
    if before is None or before[2] == ",":
        return False
    name, apart = before[1] or "", before[2] is not None
    named = bool(name) and not UNIT.fullmatch(name)
    return name.lower() not in COUNTERS and not (ENDS_LINE.match(rest) and (named or apart))


def _in_forms(text: str) -> Iterator[Found]:
    """Yield the numbers of the lines whose form is known. Of several with the same name, the first counts."""
    seen: set[str] = set()
    failed: collections.Counter[str] = collections.Counter()
    for form in OF_A_FORM:
        for match in form.finditer(text, max(0, len(text) - LONGEST_TEXT)):
            name = slug(f"{match['name']} {match['unit'] if '/' in match['unit'] else ''}")
            if name in seen or len(seen) >= MOST_NAMES or len(name) > LONGEST_NAME or failed[name] >= MOST_TRIES:
                continue
            failed[name] += 1  # unless a rule is found
            # The iterations that Go counts differ, and so does the number of cores after its name.
            counted = "/op" in match["unit"]
            words = [r"\d+" if counted and word.isdecimal() else re.escape(word) for word in match["head"].split()]
            unit = rf"(?=[ \t]+{match['unit']}\b)" if match["unit"] else ""
            spaced = r"[ \t]+".join(words)
            low = rf"{NUMBER}[ \t]+\w+[ \t]+" if match.groupdict().get("low") else ""
            pattern = rf"^[ \t]*{spaced}[ \t]*{low}({NUMBER}){unit}[^\n]*$"
            rule = {"kind": "regex", "pattern": pattern, "exampleStdout": match[0]}
            with contextlib.suppress(NoMetric, ValueError):
                found = _found(name, _value(rule, text), rule, "the line of this form")
                seen.add(name)
                if match["unit"]:
                    found = dataclasses.replace(found, direction="minimize", weight=WORDS["time"][1])
                yield dataclasses.replace(found, begin=match.start())


def without_number(text: str) -> dict[str, int]:
    """Return the names after which a log has nan or inf, as in `val_loss: nan`, with the offset of the last place."""
    text = _without_long_lines(printed(text).replace("\r", "\n"))
    places = DIVERGED.finditer(text, max(0, len(text) - LONGEST_TEXT))
    return {slug(f"{match['before']}{match['name']}"): match.start() for match in places}


def pytest_summary(text: str, junit: str | None, wanted: str | None) -> Found | None:
    """Return the figure of a test run: `wanted`, or else passed if a test fails, seconds if none does.

    Args:
        text: the log.
        junit: path of the JUnit file that pytest writes, None if it writes none.
        wanted: a count of the protocol, such as failed.
    """
    rule: dict[str, Any] = {"kind": "pytest_summary", "exampleStdout": "\n".join(text.strip().splitlines()[-3:])}
    try:
        failing = sum(_value({**rule, "count": count}, text) for count in ("failed", "errors"))
        count = wanted or ("passed" if failing else "seconds")
        value = _value({**rule, "count": count}, text)
    except NoMetric:
        return None
    rule = {"kind": "junit", "path": junit, "count": count} if junit else {**rule, "count": count}
    direction: Direction = "maximize" if count in ("passed", "total") else "minimize"
    why = "not all tests pass" if failing else "all tests pass, so only the time can improve"
    return Found(count, value, direction, 0, rule, f"pytest's summary; {why}")


def _found(name: str, value: float, rule: dict[str, Any], where: str) -> Found:
    direction, weight = meaning(name)
    return Found(name, value, direction, weight, rule, where)


def _by_line(found: Found, before: str) -> Found:
    """Correct what a name means by the text before it on its line: of which part, or of which metric, it is."""
    if FOLD.search(before):
        found = dataclasses.replace(found, weight=found.weight - OF_A_FOLD)
    if (improved := IMPROVED.search(before)) and "score" in words_of(found.name):
        found = dataclasses.replace(found, direction=meaning(improved[1])[0])
    return found


def _by_unit(found: Found, unit: str) -> Found:
    """Correct the direction of a speed that is given as a time, or of a time that is given as a rate."""
    known = [word for word in words_of(found.name) if word in WORDS]
    rate, time = RATE_UNIT.match(unit), TIME_UNIT.match(unit)
    unknown = found.direction is None and not SETTINGS & {*words_of(found.name)}
    if rate and (unknown or (known and known[-1] in TIME.split())):
        return dataclasses.replace(found, direction="maximize", weight=WORDS["throughput"][1])
    if time and not rate and ((unknown and time[1]) or (known and known[-1] in SPEED.split())):
        return dataclasses.replace(found, direction="minimize", weight=WORDS["time"][1])
    return found


@dataclass(frozen=True)
class _Label:
    """What stands before a number.

    Attributes:
        start: where it begins.
        text: all of it.
        title: what the number is.
        split: what data it is of, by a marker before the label; else empty.
    """

    start: int
    text: str
    title: str
    split: str = ""

    @property
    def name(self) -> str:
        return slug(f"{self.split} {self.title}")


def _label_of(text: str, match: re.Match[str]) -> _Label:
    label = f"{match['before']}{match['name']}{match['unit'] or ''}"
    found = _Label(match.start(), f"{label}{match['count'] or ''}", label)
    if meaning(label)[0] is None and re.search("[:=]", match["between"]):
        counted = match["count"] or re.search(r"\d[ \t]*$", text[max(0, match.start() - 9) : match.start()])
        if counted or not any(word in SETTINGS or word.rstrip("s") in COUNTERS for word in words_of(label)[-1:]):
            found = _about(text, match.start(), found.text) or found
    return dataclasses.replace(found, split=_split_before(text, found.start, found.title))


def _about(text: str, at: int, label: str) -> _Label | None:
    """Return the label of which `label` are the last words, if a word before a preposition says what the number is.

    `Accuracy of the network on the 10000 test images` is a test accuracy.
    """
    begin = max(text.rfind(end, max(0, at - LONGEST_LABEL), at) for end in "\n\t|│┃:=,;()[]{}")
    begin = begin + 1 if begin >= 0 else max(0, at - LONGEST_LABEL)
    whole = f"{text[begin:at]}{label}"
    for said in BEFORE_ABOUT.finditer(whole):
        if meaning(said[0])[0] is not None:
            split = "" if re.search(SPLIT, said[0]) else "".join(re.findall(SPLIT, whole[said.end() :])[:1])
            return _Label(begin + said.start(), whole[said.start() :], f"{split} {said[0]}".strip())
    return None


def _is_deviation(before: str, label: _Label) -> bool:
    said = DEVIATION.search(f"{before[-LONGEST_DEVIATION:]}{label.text.split()[0]}")
    return said is not None and not said["mean"]


def _split_before(text: str, at: int, label: str) -> str:
    """Return what a loss or score is of, by the nearest marker before it on its line, else an empty string.

    A `|` ends what a marker is said of. A name that has such a word itself needs no other.
    """
    if re.search(SPLIT, re.sub(r"[\W_]+", " ", label)) or not any(
        WORDS.get(word, ("", 0))[1] >= LEAST_OF_SPLIT for word in words_of(label)
    ):
        return ""
    before = text[max(text.rfind(end, 0, at) for end in "\n|│┃") + 1 : at]
    markers = [match[0] for match in MARKER.finditer(before)]
    return re.findall(SPLIT, markers[-1])[0] if markers else ""


def _in_line(text: str, match: re.Match[str], label: _Label) -> Found | None:
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    line = text[start : end if end >= 0 else len(text)]
    first = not text[start : label.start].strip()
    rest = line[match.end() - start :]
    before = _before_number(label, match["between"], first, label.start == start)
    # In `loss: 0.5 std loss: 0.1` the last place is not that of the loss.
    if not first and "std " in line.lower() and text[label.start - 4 : label.start].lower() != "std ":
        before = rf"(?<!(?i:std)[ \t]){before}"
    average = AVERAGE.match(rest)
    if average is not None and not (COUNTER.search(line) and len(METER.findall(line)) > 1):
        average = None
    last = "the last line that contains it"
    if average is not None:
        before, last = rf"{before}[^\s(]+[ \t]*\([ \t]*", f"the average in parentheses, in {last}"
    number = match["number"] if average is None else average[1]
    # A summary line occurs once, and a second one is an error; a log of epochs has one line each, and the last counts.
    # Of the first, a line such as `val_loss: computing` is none. Digits only are for names after which a word follows.
    ways = []
    if first and not rest.strip():
        ways = [(rf"{before}((?:{NUMBER}|{NO_NUMBER})[^\n]*)$", "the line that contains it")]
    groups = _groups("" if average else rest, signed=re.search("[:=|│┃]", match["between"]) is not None)
    ways += [(rf"\A[\s\S]*{before}({group})[^\n]*$", last) for group in groups]
    ways += [(rf"\A[\s\S]*{before}({NUMBER})\s*$", last)] if not rest.strip() else []
    for way, where in ways:
        rule = {"kind": "regex", "pattern": way, "exampleStdout": _excerpt(text, start, len(line))}
        try:
            if _value(rule, text) == _value(rule, rule["exampleStdout"]) == float(number.replace(",", "")):
                found = _found(label.name, float(number.replace(",", "")), rule, where)
                return _by_unit(found, (match["unit"] or "").strip(" \t()") or rest)
        except (NoMetric, ValueError):  # ValueError: the pattern is too long
            continue
    return None


def _groups(rest: str, *, signed: bool) -> tuple[str, str]:
    """Return what a rule captures, and instead if a later line of the trial has the same words: numbers only.

    After the number there must be the same unit as in the trial. Where another one is, nothing is captured, so that
    this run has no metric: neither the number there nor that of an earlier line.

    Args:
        rest: what follows the number on its line.
        signed: whether a sign stands before the number.
    """
    unit = _unit_of(rest)
    number = rf"{NUMBER}(?={MORE_DIGITS}{unit})" if unit else rf"(?!{CLOCK}){NUMBER}{OF_ANOTHER_UNIT}"
    another = rf"(?={BEGINS_NUMBER})"
    word = rf"(?!{BEGINS_NUMBER}){ANY_WORD}" if signed else NO_NUMBER
    return rf"{number}|{word}|{another}", rf"{number}|{another}"


def _unit_of(rest: str) -> str:
    """Return the expression of the unit that follows a number; empty if there is none."""
    attached = ATTACHED.match(rest)
    apart = APART.match(rest, attached.end() if attached else 0)
    words = f"{attached[0] if attached else ''}{apart[0] if apart else ''}".split()
    if not words:
        return ""
    several = (
        re.escape(word) if len(word) < 3 or "/" in word else rf"{re.escape(word.removesuffix('s'))}s?" for word in words
    )
    unit = re.sub(f"[{MICRO}]", f"[{MICRO}]", r"[ \t]+".join(several))
    return rf"[ \t]*{unit}(?!{OF_UNIT}|{MORE_OF_UNIT})"


def _before_number(label: _Label, between: str, first: bool, at_start: bool) -> str:
    """Return the expression of what stands before the number.

    Args:
        label: the words.
        between: what is between them and the number.
        first: whether only spaces precede the label on its line.
        at_start: whether nothing does.
    """
    sign = re.search("[:=|│┃]", between)
    quote = between[:1].strip(" \t:=|│┃")
    joint = r"[ \t]+" if sign is None else rf"{quote}[ \t]*{re.escape(sign.group())}[ \t]*"
    # The number of an epoch, or of the samples, may differ.
    words = r"[ \t]+".join(r"\d[\d,.]*" if DIGITS.fullmatch(word) else re.escape(word) for word in label.text.split())
    head = (r"^" if at_start else r"^[ \t]*") if first else r"(?<![\w./-])"
    if label.split:
        head = rf"(?<![\w./-]){label.split}(?![\w/-]|\.\w)(?:(?!{SPLIT})[^\n|])*?{head}"
    return f"{head}{words}{joint}"


def _value(rule: dict[str, Any], text: str) -> float:
    return extract(Metric.model_validate({"name": "metric", "direction": "minimize", "extract": rule}), text)


def _excerpt(text: str, start: int, length: int) -> str:
    """Return the line from `start`, with the two lines before it."""
    before = text.rfind("\n", 0, max(0, text.rfind("\n", 0, max(0, start - 1)))) + 1
    whole = text[before : start + length]
    return whole if len(whole) <= LONGEST_EXAMPLE else text[start : start + length]


def _json_begin(text: str) -> int:
    """Return the offset of the line of the JSON that `last_json` reads."""
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(text)
        return 0
    begin = len(text)
    for line in reversed(text.splitlines(keepends=True)):
        begin -= len(line)
        with contextlib.suppress(NoMetric):
            last_json("the metric", line)
            return begin
    return 0


def _json_example(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    shortest = text.strip() if text.lstrip()[:1] in ("{", "[") and len(lines) > 1 else lines[-1]
    try:
        last_json("", shortest)
    except NoMetric:
        return ""
    return shortest if len(shortest) <= LONGEST_EXAMPLE else ""


def _leaves(value: Any, keys: tuple[str, ...], listed: bool = False) -> Iterator[tuple[tuple[str, ...], float, bool]]:
    """Yield the path of each number in a JSON, the number, and whether it is in a list of epochs.

    Such a list has numbers, or objects without a text: those of a list of benchmarks have a name. One with a single
    place is such a list if it counts epochs.
    """
    if len(keys) > 8:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*keys, str(key)), listed)
    elif isinstance(value, list):
        named = any(
            isinstance(inner, dict) and any(isinstance(each, str) for each in inner.values()) for inner in value
        )
        counts = any(
            isinstance(inner, dict) and any(EPOCHS & {*words_of(str(key))} for key in inner) for inner in value
        )
        epochs = not named and (len(value) > 1 or counts)
        for index, inner in enumerate(value[:20]):
            yield from _leaves(inner, (*keys, str(index)), listed or epochs)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
        yield keys, float(value), listed
