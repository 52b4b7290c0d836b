"""Near misses are made together: which, when, as which files, and never the same twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.journal.experiment import Evidence, Experiment, Run, Status, Value, Verdict, digest
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.proposers.base import Context, WorkspaceView
from agent.proposers.search import near_misses
from agent.proposers.search.search import SearchProposer
from agent.proposers.search.space import tunable_parameters
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from tests.common.in_process import call
from tests.common.sessions import assert_consistent, events
from tests.common.workspaces import commit_all, git

SOURCE = """RATE = 0.1  # search: 0.001..10 log
DEPTH = 4  # search: 1..16
SHARE = 0.5  # search: 0.0..1.0


def loss(x):
    return x + 1


def step(x):
    return x * RATE


def last(x):
    return x
"""
# Each run has the noise of its place on the tape, so that the same session has the same verdicts.
NOISY = """import pathlib, random
RATE = 0.1  # search: 0.001..10 log
DEPTH = 4  # search: 1..16
SHARE = 0.5  # search: 0.0..1.0
WIDTH = 64  # search: 16..256
tape = pathlib.Path("{tape}")
if __name__ == "__main__":
    tape.write_text(tape.read_text() + ".")
    noise = random.Random(len(tape.read_text())).gauss(0, 0.01)
    print(f"val_bpb: {{2 - 0.004 * (SHARE != 0.5) - 0.004 * (DEPTH != 4) - 0.004 * (WIDTH != 64) + noise:.6f}}")
"""


def edited(source: str, **changes: str) -> str:
    """Return a source with each constant set to a literal."""
    for name, value in changes.items():
        line = next(each for each in source.splitlines() if each.startswith(f"{name} = "))
        source = source.replace(line, f"{name} = {value}  #{line.partition('#')[2]}")
    return source


class Night:
    """A session as plain values: each experiment changes the text of the incumbent."""

    def __init__(self, source: str = SOURCE) -> None:
        self.texts: list[dict[str, str]] = []
        self.history: list[Experiment] = []
        self.add(source, "keep", None)

    def add(self, source: str, status: Status, sigmas: float | None, parts: tuple[int, ...] = ()) -> Night:
        number, files = len(self.history), {"train.py": source}
        gain = None if sigmas is None else Evidence("confirmed", 1.0, 2, 1.0, 2, 0.01 * sigmas, 0.01, sigmas)
        parameters = tunable_parameters(files, {})
        verdict = Verdict(status, "", gain)
        about = ("search", f"idea {number}", str(number), digest(files), parameters, (Run(1.0, 1.0),), verdict)
        self.history.append(Experiment(number, *about, parts=parts))
        self.texts.append(files)
        return self

    def missed(self, sigmas: float, **changes: str) -> Night:
        return self.add(edited(self.source, **changes), "discard", sigmas)

    def kept(self, **changes: str) -> Night:
        return self.add(edited(self.source, **changes), "keep", 5.0)

    @property
    def incumbent(self) -> Experiment:
        return [each for each in self.history if each.verdict.status == "keep"][-1]

    @property
    def source(self) -> str:
        return self.texts[self.incumbent.number]["train.py"]

    def context(self, number: int = 8, **view: Any) -> Context:
        workspace = WorkspaceView(texts=lambda each: self.texts[each.number], **view)
        files, history = self.texts[self.incumbent.number], tuple(self.history)
        return Context(number, 0, files, self.incumbent, history, "minimize", {}, workspace=workspace)

    def proposed(self, number: int = 8, **view: Any) -> list[tuple[tuple[int, ...], Mapping[str, Value]]]:
        """Return the parts of each candidate that near misses give, with the constants in which it differs."""
        found: list[tuple[tuple[int, ...], Mapping[str, Value]]] = []
        for each in near_misses.proposals(self.context(number, **view)):
            moved = {k: v for k, v in each.parameters.items() if self.incumbent.parameters.get(k) != v}
            found.append((each.parts, moved))
        return found


def test_two_clearest_near_misses_are_made_together() -> None:
    night = Night().missed(0.4, RATE="0.2").missed(-1.0, DEPTH="5").missed(1.5, DEPTH="6").missed(0.9, SHARE="0.7")
    assert night.proposed()[0] == ((3, 4), {"DEPTH": 6, "SHARE": 0.7})
    assert [parts for parts, _ in night.proposed()] == [(3, 4), (1, 3), (1, 4)]
    found = SearchProposer().ask(night.context())
    assert (found.parts, found.parameters) == ((3, 4), {"RATE": 0.1, "DEPTH": 6, "SHARE": 0.7})
    assert found.description == "#3 and #4: idea 3; idea 4"
    assert found.reasoning == "near misses #3 and #4, better than their incumbent within the noise, together"


@pytest.mark.parametrize("number", [5, 6, 7])
def test_other_proposals_come_between(number: int) -> None:
    night = Night().missed(1.0, RATE="0.2").missed(1.0, DEPTH="5").missed(-1.0, DEPTH="6").missed(-1.0, SHARE="0.7")
    assert SearchProposer().ask(night.context(8)).parts == (1, 2)
    assert SearchProposer().ask(night.context(number)).parts == ()


def test_nothing_is_made_together_while_the_search_keeps() -> None:
    night = Night().missed(1.0, RATE="0.2").missed(1.0, DEPTH="5").missed(1.0, SHARE="0.7")
    assert night.proposed() == []
    assert night.missed(-1.0, DEPTH="9").proposed() != []
    assert night.kept(DEPTH="2").proposed() == []


def test_near_miss_is_tried_on_a_later_incumbent() -> None:
    night = Night().missed(1.0, RATE="0.2").kept(DEPTH="5")
    for depth in "6789":
        night.missed(-1.0, DEPTH=depth)
    assert night.proposed() == [((1,), {"RATE": 0.2})]
    found = next(near_misses.proposals(night.context()))
    assert found.files["train.py"] == edited(SOURCE, RATE="0.2", DEPTH="5")
    assert found.reasoning == "near miss #1, better than its incumbent within the noise, on #2"


def test_changes_of_one_constant_are_not_made_together() -> None:
    night = Night().missed(2.0, DEPTH="6").missed(1.9, DEPTH="7").missed(0.1, SHARE="0.7").missed(-1.0, RATE="1.0")
    assert [parts for parts, _ in night.proposed()] == [(1, 3), (2, 3)]


def test_code_is_merged_with_code_and_constants(quick: Path) -> None:
    first = SOURCE.replace("x + 1", "x + 2")
    second = edited(SOURCE.replace("    return x\n", "    return -x\n"), RATE="0.3")
    clash = SOURCE.replace("x + 1", "x + 3")
    night = Night().add(first, "discard", 1.0).add(second, "discard", 0.9).add(clash, "discard", 2.5)
    night.missed(-1.0, DEPTH="5")
    found = [*near_misses.proposals(night.context(merge=Workspace(quick, load_protocol(quick)).merge))]
    assert [each.parts for each in found] == [(2, 3), (1, 2)]
    expected = edited(SOURCE, RATE="0.3").replace("x + 1", "x + 2").replace("    return x\n", "    return -x\n")
    assert found[1].files == {"train.py": expected}


def test_what_was_measured_is_not_proposed_again() -> None:
    night = Night().missed(1.5, DEPTH="6").missed(0.9, SHARE="0.7").missed(-1.0, RATE="1.0").missed(-1.0, RATE="2.0")
    night.add(edited(SOURCE, DEPTH="6", SHARE="0.7"), "discard", -2.0, parts=(1, 2))
    assert SearchProposer().ask(night.context()).parts == ()


def test_near_miss_that_loses_with_several_others_is_left() -> None:
    night = Night().missed(2.0, DEPTH="6").missed(0.9, SHARE="0.7").missed(0.8, RATE="1.0").missed(0.7, RATE="2.0")
    for other in (2, 3, 4):
        night.add(edited(SOURCE, DEPTH="6", SHARE=f"0.{other}"), "discard", -2.0, parts=(1, other))
    for other in range(32):
        night.missed(-1.0, SHARE=f"0.{other + 100}")
    assert [parts for parts, _ in night.proposed(number=40)] == [(2, 3), (2, 4)]


def test_kept_pair_is_taken_apart_where_a_part_was_not_measured_alone() -> None:
    night = Night().missed(0.5, RATE="0.2").kept(DEPTH="5").missed(1.0, SHARE="0.7")
    together = edited(night.source, RATE="0.2", SHARE="0.7")
    night.add(together, "keep", 4.0, parts=(1, 3))
    found = [*near_misses.proposals(night.context(5))]
    assert [each.description for each in found] == ["without #1: idea 1", "without #3: idea 3"]
    assert found[1].files["train.py"] == edited(SOURCE, DEPTH="5", RATE="0.2")
    # Without #1 it is #3, which was measured on the same incumbent; without #3 it is new.
    asked = SearchProposer().ask(night.context(5))
    assert (asked.description, asked.parts) == ("without #3: idea 3", ())


def test_voided_failed_and_unproven_candidates_are_no_near_misses() -> None:
    night = Night().missed(1.0, RATE="0.2")
    clear = night.history[1].verdict.evidence
    assert clear is not None
    voided = replace(night.history[1], verdict=Verdict("discard", "voided: trained longer", clear))
    crashed = replace(night.history[1], verdict=Verdict("crash", "no metric"))
    guessed = replace(
        night.history[1], verdict=Verdict("discard", "", Evidence("one run", 1.0, 1, 1.0, 1, 0.1, 0.1, None))
    )
    seed = replace(night.history[1], verdict=Verdict("discard", "repeat", replace(clear, how="repeat", sigmas=9.0)))
    history = [night.history[0], voided, crashed, guessed, seed, night.history[1]]
    assert near_misses.near_misses(history) == [night.history[1]]


def test_forbidden_file_and_malformed_comment_give_no_candidate() -> None:
    night = Night().missed(1.0, RATE="0.2").missed(0.9, DEPTH="5").missed(-1.0, DEPTH="6").missed(-1.0, DEPTH="7")
    assert night.proposed(allows=lambda _: False) == []
    odd = Night().missed(1.0, RATE="0.2").add(SOURCE, "discard", 1.0)
    odd.texts[2] = {"train.py": SOURCE.replace("return x\n", "return x\nWIDTH = 3  # serach: 1..8\n")}
    odd.missed(-1.0, DEPTH="6").missed(-1.0, DEPTH="7")
    assert odd.proposed() == []


def test_session_tries_near_misses_together_and_records_of_which(quick: Path, tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    tape.write_text("")
    (quick / "train.py").write_text(NOISY.format(tape=tape))
    commit_all(quick, "noise")
    done = call(quick, "run", "--tag", "t", "--max-experiments", "24", "--sandbox", "off", "--no-confirm")
    assert done.returncode == 0, done.stderr
    together = [each for each in events(quick, "proposed") if "parts" in each]
    assert together
    first, history = together[0], fold(journal_path(quick, "t")).experiments
    assert history[first["number"]].parts == tuple(first["parts"])
    misses = [history[number] for number in first["parts"]]
    assert {each.verdict.status for each in misses} == {"discard"}
    for each in misses:
        assert each.verdict.evidence is not None
        assert each.verdict.evidence.gain > 0
    shown = json.loads(call(quick, "show", str(first["number"]), "--json").stdout)["data"]
    assert shown["parts"] == first["parts"]
    assert git(quick, "status", "--porcelain") == ""
    assert_consistent(quick)


def test_making_together_becomes_rare_where_it_does_not_pay_and_comes_back_with_a_keep() -> None:
    night = Night().missed(1.0, RATE="0.2").missed(1.0, DEPTH="5").missed(1.0, SHARE="0.7").missed(1.0, RATE="0.3")

    def until_due() -> int:
        """Return how many experiments after the last ones that were made together the next are."""
        count = 1
        while not night.proposed(number=40):
            night.missed(-1.0, SHARE=f"0.{len(night.history):03}")
            count += 1
        return count

    assert until_due() == 1
    distances = []
    for parts, values in (((1, 2), {"RATE": "0.2", "DEPTH": "5"}), ((1, 3), {"RATE": "0.2", "SHARE": "0.7"})):
        night.add(edited(SOURCE, **values), "discard", -1.0, parts=parts)
        distances.append(until_due())
    assert distances == [8, 16]
    night.add(edited(SOURCE, DEPTH="5", SHARE="0.7"), "keep", 5.0, parts=(2, 3))
    for rate in ("0.5", "0.6", "0.7", "0.8"):
        night.missed(0.5, RATE=rate)
    assert any(each.parts for each in near_misses.proposals(night.context(12)))
