"""The harness's own word on a run, where it gives one.

A harness that knows the variable AUTORESEARCH_ATTEST writes what it computed itself to the file named there: one JSON
object {name, metric, eval_tokens, training_seconds, elapsed_seconds, snapshot: {folder, id}, void}. The number in the
log must agree with it, and void, where it is not null, says why the run does not count. It ends a run that has trained
for longer than AUTORESEARCH_LONGEST_TRAINING, in seconds: such a run is void, whatever would come of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.errors import Violation

VARIABLE = "AUTORESEARCH_ATTEST"
LONGEST_VARIABLE = "AUTORESEARCH_LONGEST_TRAINING"
# A log may round to three decimals; what counts is the harness's own number.
TOLERANCE = 6e-4
# A last step begun within the budget ends after it, and a clock of the script's own may leave out what it reports.
BUDGET_FACTOR, BUDGET_SECONDS = 1.1, 10.0
# Between the command's start and the harness's, and between its word and the command's end: imports, saving a model.
AROUND_FACTOR, AROUND_SECONDS = 1.5, 120.0


def attests(harness: Iterable[Path]) -> bool:
    """Whether the harness knows how to attest."""
    return any(path.is_file() and VARIABLE.encode() in path.read_bytes() for path in harness)


def longest_training(budget: float) -> float:
    """Seconds of training that are still taken for `budget` seconds of it."""
    return BUDGET_FACTOR * budget + BUDGET_SECONDS


def require_not_void(path: Path) -> None:
    """Raises Violation with the reason for which the harness ended the run, if it did."""
    reason = _read(path).get("void")
    if reason:
        raise Violation(f"void: {reason}")


def attested(
    path: Path,
    name: str,
    metric: float,
    *,
    seconds: float,
    budget: float | None,
    folder: Path | None,
    data: Mapping[str, Any],
) -> float:
    """The metric `name` as the harness computed it; the log's own where it attests another.

    seconds: how long the command took; budget: seconds of training; data: snapshot.json of the snapshot in `folder`.
    Raises Violation where the number in the log, or the way to it, is not what the harness saw.
    """
    word = _read(path)
    if not word:
        raise Violation("void: the metric was not computed by the harness")
    try:
        value, tokens = float(word["metric"]), int(word["eval_tokens"])
        trained, elapsed = float(word["training_seconds"]), float(word["elapsed_seconds"])
        where, snapshot = word["snapshot"]["folder"], word["snapshot"]["id"]
    except (KeyError, TypeError, ValueError):
        raise Violation("void: what the harness attested is damaged") from None
    if word.get("name") == name and not abs(value - metric) <= TOLERANCE:  # nor may it be no number
        raise Violation(f"void: the log says {metric:.6f}, the harness computed {value:.6f}")
    if snapshot != data.get("id") or Path(where) != folder:
        raise Violation(f"void: it was evaluated on other data, in {where}")
    if tokens != data.get("EVAL_TOKENS"):
        raise Violation(f"void: it was evaluated on {tokens} tokens instead of {data.get('EVAL_TOKENS')}")
    if budget is not None and trained > longest_training(budget):
        raise Violation(f"void: it trained for {trained:.0f} s by the harness's clock; the budget is {budget:g} s")
    if seconds > AROUND_FACTOR * elapsed + AROUND_SECONDS:
        raise Violation(f"void: by the harness's clock it took {elapsed:.0f} s, in truth {seconds:.0f} s")
    return value if word.get("name") == name else metric


def _read(path: Path) -> dict[str, Any]:
    try:
        word = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return word if isinstance(word, dict) else {}
