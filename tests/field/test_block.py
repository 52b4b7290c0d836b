"""The block of text that `field` prints."""

from __future__ import annotations

from typing import Any

import pytest

from agent.field.block import block
from tests.common.field_figures import field_figures, run_figures

pytestmark = pytest.mark.quick

MOST_LINES, MOST_COLUMNS = 60, 100


def lines(**changes: Any) -> list[str]:
    """Return the lines of a block, which is fenced, short and narrow."""
    text = block(field_figures(**changes))
    first, *found, last = text.splitlines()
    assert (first, last) == ("```text", "```")
    assert len(found) <= MOST_LINES
    assert max(map(len, found)) <= MOST_COLUMNS
    return found


def entry(name: str, found: list[str]) -> str:
    """Return the text of an entry, with the lines that it continues on."""
    at = next(number for number, line in enumerate(found) if line.startswith(name))
    more = found[at + 1 :]
    end = next((number for number, line in enumerate(more) if not line.startswith(" ")), len(more))
    return " ".join(" ".join([found[at].removeprefix(name), *more[:end]]).split())


def test_block_has_every_part() -> None:
    found = lines()
    assert entry("field", found) == "autoresearch 0.1.0, format 1, 20 min asked, 19m50s taken"
    assert entry("chip", found) == "Apple M4, 10 cores"
    assert entry("meanwhile", found) == "0.1 cores used by others, 0 GB swapped out, 1.5 load"
    assert entry("sandbox", found) == "each run in its own room, writes confined by Seatbelt"
    assert "5 runs of 60 s of training, same seed" in entry("recipe", found)
    assert "val_bpb mean 1.920000, sd 0.016 (0.82 %), range 1.900000 to 1.940000" in entry("recipe", found)
    assert entry("speed", found) == "400 ms/step, 20,480 tokens/s, 41.8 MFU %, 251.4 peak MB"
    assert entry("lost", found) == "4.5 s of a run are not training: evaluation 2.5, start and rest 2.0"
    assert entry("sizes", found) == (
        "DEPTH ms/step tokens/s MFU % peak MB steps val_bpb 2 400 20,480 41.8 251.4 26 1.9 "
        "4 400 20,480 41.8 251.4 26 1.9"
    )
    assert entry("session", found) == (
        "6 experiments in 7m10s: 1 kept, 4 discarded, 1 crashed; 0 faults of the machine; "
        "gain 0.120000 (provisional), noise 0.016"
    )


def test_unknown_figures_are_left_out() -> None:
    unknown = dict.fromkeys(("steps", "step_ms", "tokens_per_second", "mfu_percent", "lost"))
    found = lines(runs=[run_figures(1.9, **unknown, conditions={})], first=None, machine={}, sizes=[], session=None)
    assert [line.split()[0] for line in found] == ["field", "sandbox", "recipe", "speed"]
    assert entry("speed", found) == "251.4 peak MB"


def test_failed_runs_and_sizes_are_named_with_their_reason() -> None:
    gone = run_figures(None, error="out of memory: exit code 1")
    found = lines(runs=[run_figures(), gone, gone], sizes=[{"value": 8, "run": gone}])
    assert entry("failed", found) == "2 runs: out of memory: exit code 1"
    assert entry("sizes", found).endswith("8 out of memory: exit code 1")
    assert "1 run of 60 s" in entry("recipe", found)


def test_parts_that_were_left_out_are_named() -> None:
    found = lines(stopped="stopped by Ctrl-C", left_out=["DEPTH 8: stopped by Ctrl-C", "session: stopped by Ctrl-C"])
    assert entry("field", found).endswith("taken, stopped by Ctrl-C")
    assert [line for line in found if line.startswith("left out")] == [
        "left out  DEPTH 8: stopped by Ctrl-C",
        "left out  session: stopped by Ctrl-C",
    ]


def test_text_of_a_run_cannot_break_the_block() -> None:
    text = block(field_figures(runs=[run_figures(None, error="```\n# title\x1b[31m" + "x" * 300)]))
    first, *inside, last = text.splitlines()
    assert (first, last) == ("````text", "````")
    assert not any(line.startswith(("```", "# title")) for line in inside)
