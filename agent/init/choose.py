"""Choose the metric among the numbers of a command's output, by their names and what the README says."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

from agent.init.names import VALIDATION, WORDS, Direction, by_habit, is_cost, is_named, meaning, slug, words_of
from agent.init.numbers import LONG_LINE, Found

TUNED = 40  # a further penalty of it if the same is measured on a validation set
CALLED_METRIC = 150
LESS_LIKELY = 50  # a number outside of a list of epochs is no substitute: the training loss for that of validation
METRIC_WORD = re.compile(
    r"\b(metric|objective|goal|score to|optimi[sz]e[sd]?|maximi[sz]e[sd]?|minimi[sz]e[sd]?|improve|lowest|highest"
    r"|target)\b",
    re.IGNORECASE,
)
ANOTHER = re.compile(r"\b(secondary|extra|informational|tie[- ]?break\w*|diagnostics?)\b", re.IGNORECASE)
COMPARED = (
    r"(?:the )?(?:(?P<more>higher|larger|bigger|greater|more)|(?:lower|smaller|less|fewer))"
    r" (?:is|are|=) (?:better|good)"
)
BETTER = re.compile(rf"\b{COMPARED}|\b(?P<most>maximi[sz]\w*|highest)|\b(?:minimi[sz]\w*|lowest)", re.IGNORECASE)
# What may stand between a verb and the name that it governs, and after that name: in `minimize accuracy loss` it
# governs another one.
GOVERNS = (
    r"\b(?:(?P<most>maximi[sz])|minimi[sz])(?:e[sd]?|ing)\b[)*:]{0,4}"
    r"(?: (?:the|its|their|our|a|final|mean|average|total|overall|validation|test|printed|reported|resulting|measured"
    r"|metric|score|is|are))*[ :=`*\"']{1,5}"
)
AFTER_OBJECT = (
    r"(?=[`*\"']*(?:\W*$|[ \t]*[^\w\s`*\"']|\s+(?:on|of|in|for|at|by|with|over|and|or|as|to|while|within|under|without"
    r"|when|if|using|from|per|after|across|subject|is|it|this)\b))"
)
# What may stand between a name and what is said of it: `cost`: mean distance to the goal (lower is better).
DEFINED = r"[`*\"')\]]*[ \t]*[:(|\u2013\u2014-][ \t]*(?P<about>(?:[^\s.;]+\s+){0,7}?)[(*_]*"
# A name of which the sentence gives a definition, so that its other words are about it too.
IS_DEFINED = re.compile(r"[`*\"')\]]*[ \t]*(?:[:=(|\u2013\u2014-]|(?:is|are|means|measures|counts)\b)")
# Other numbers than those of WORDS that a recipe minimizes or maximizes.
OBJECTIVES = {"entropy", "likelihood", "divergence", "objective"}
LONGEST_OBJECT = 4  # words after a verb that may be what it governs
SHOULD_BE = r"[`*\"']*,? (?:which )?(?:should|must|is to|has to|to) be (?:(?P<most>maximi[sz])|minimi[sz])ed\b"


def choose_metric(found: list[Found], wanted: str | None, prose: str) -> Found | None:
    """Return the number called `wanted`, or else the most likely one with a known direction.

    Args:
        found: the numbers of the output.
        wanted: name of the metric, or its path in a JSON; None if the user named none.
        prose: the README, which breaks ties.
    """
    if wanted is not None:
        return _named(found, wanted)
    directed = [dataclasses.replace(f, direction=said_direction(f.name, prose) or f.direction) for f in found]
    tuned = [f for f in directed if f.direction and VALIDATION & {*words_of(f.name)} and not is_cost(f.name)]
    validated = any("test" in words_of(f.name) and any(_alike(f, other) for other in tuned) for f in directed)

    def likely(candidate: Found) -> int:
        said = len(candidate.name) > 4 and re.search(rf"\b{re.escape(candidate.name)}\b", prose)
        called = CALLED_METRIC if _is_called_metric(candidate.name, prose) else 0
        reserved = TUNED if validated and "test" in words_of(candidate.name) else 0
        return candidate.weight + (15 if said else 0) + called - reserved

    # Among equally likely numbers take the first: later ones usually give details.
    known = [f for f in directed if f.direction is not None]
    alone = max((f for f in known if not f.listed), key=likely, default=None)
    listed = max((f for f in known if f.listed), key=likely, default=None)
    if alone is None or listed is None:
        return alone or listed
    only_a_cost = is_cost(alone.name) and not is_cost(listed.name)
    return listed if only_a_cost or likely(alone) + LESS_LIKELY <= likely(listed) else alone


def _named(found: list[Found], wanted: str) -> Found | None:
    """Return the number whose name or path in a JSON is `wanted`, or ends with it."""
    if exact := next((f for f in found if f.extract.get("pointer") == wanted), None):
        return dataclasses.replace(exact, listed=False)  # the index is the user's own
    named = (
        [f for f in found if slug(f.name) == slug(wanted)]
        or [f for f in found if is_named(f.name, wanted)]
        or [f for f in found if is_named(f.extract.get("pointer", ""), wanted)]
    )
    return max(named, key=lambda f: (not f.listed, f.weight), default=None)


def _alike(one: Found, other: Found) -> bool:
    """Return whether two numbers may measure the same kind of quality. A score may be of any."""
    words, others = {*words_of(one.name)}, {*words_of(other.name)}
    return one.direction == other.direction or "score" in words | others or bool(words & others & {*WORDS})


def said_direction(name: str, prose: str) -> Direction | None:
    """Return the direction that a README states for the number called `name`: `val_f1` (higher is better).

    A direction that the name itself has is overridden only by words directly after it, or by a verb that governs it:
    other words of the sentence are about something else, as in "minimizes cross-entropy and prints its accuracy". If
    the direction of the name is only a habit, all words of the sentence count that are not about another number.
    """
    known = meaning(name)[0] is not None
    for clause in _clauses(name, prose):
        found = next(
            (match for form in _forms(name) if (match := form.search(clause)) and _about_it(name, match)), None
        )
        if found is None and not known:
            found = BETTER.search(clause.partition(name)[2]) or BETTER.search(clause)
        if found is None and by_habit(name):
            found = _in_clause(name, clause)
        if found is not None:
            return _direction(found)
    return None


def hinted_direction(name: str, prose: str) -> Direction | None:
    """Return the direction in the first sentence with `name` that has one, and may be about it or something else."""
    found = next((match for clause in _clauses(name, prose) if (match := _in_clause(name, clause))), None)
    return None if found is None else _direction(found)


def _direction(found: re.Match[str]) -> Direction:
    said = found.groupdict()
    return "maximize" if said.get("more") or said.get("most") else "minimize"


def _in_clause(name: str, clause: str) -> re.Match[str] | None:
    """Return the words of a clause that give a direction, unless another number is what they are about."""
    before, _, after = clause.partition(name)
    for text, defined in ((after, IS_DEFINED.match(after)), (before, None)):
        for found in BETTER.finditer(text):
            if "better" in found[0].lower() or "good" in found[0].lower():  # it is about what precedes it
                if defined or not _numbers(name, text[: found.start()]):
                    return found
            elif not _numbers(name, " ".join(text[found.end() :].split()[:LONGEST_OBJECT])):
                return found
    return None


def _about_it(name: str, found: re.Match[str]) -> bool:
    return not _numbers(name, found.groupdict().get("about") or "")


def _numbers(name: str, text: str) -> bool:
    """Return whether a text has a word for another number than the one called `name`."""
    words = {*words_of(text)} - {*words_of(name)}
    return bool(words & OBJECTIVES) or any(word in WORDS for word in words)


@functools.lru_cache(maxsize=256)
def _forms(name: str) -> tuple[re.Pattern[str], ...]:
    """Return the expressions of a statement about the number called `name` and no other."""
    whole = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
    after = (
        rf"{whole}[`*\"'\])]*(?: (?:is|score|values?))?[ \t]*[(:,=|\u2013\u2014-]*[ \t*_]*(?:(?:where|and) )?{COMPARED}"
    )
    forms = after, f"{whole}{DEFINED}{COMPARED}", f"{GOVERNS}{whole}{AFTER_OBJECT}", f"{whole}{SHOULD_BE}"
    return tuple(re.compile(form, re.IGNORECASE) for form in forms)


def _is_called_metric(name: str, prose: str) -> bool:
    return any(METRIC_WORD.search(clause) for clause in _clauses(name, prose))


def _clauses(name: str, prose: str) -> Iterator[str]:
    """Yield the sentences of `prose` that contain `name`, up to a word such as "secondary"."""
    whole = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    if len(name) < 2 or not whole.search(prose):
        return
    for clause in re.split(r"(?<=[.;!?])\s+|\n\s*\n|\n\s*[-*|#]", LONG_LINE.sub("", prose)):
        said = ANOTHER.split(clause)[0]
        if whole.search(said):
            yield said
