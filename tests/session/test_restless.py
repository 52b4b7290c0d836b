"""A machine whose state changes between runs, and incumbents that fail when repeated: neither decides a verdict, and
no experiment runs endlessly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.decision.decide import Comparison, DecisionConfig, judge, why_unlike
from agent.decision.estimate import estimate, unbiased
from agent.decision.next_run import ITS_OWN_SWAP
from agent.decision.noise import noise_of
from agent.decision.sequential_test import MOST_FAILURES, MOST_RUNS
from agent.execution import conditions
from agent.journal.experiment import Experiment, Run, Verdict
from agent.journal.paths import journal_path
from agent.journal.pending import Pending
from tests.common.experiments import kept
from tests.common.in_process import call
from tests.common.scripts import SLOW, WHICH, knowing
from tests.common.sessions import assert_consistent, events, journal, rows
from tests.common.workspaces import Cli, commit_all, git, set_protocol

NULL = ({"a.py": "RATE = 2\n"}, {"a.py": "RATE = 1\n"})
SIZE = ({"a.py": "SEQ_LEN = 2\n"}, {"a.py": "SEQ_LEN = 1\n"})
# Whether the machine is busy in the run of this number, from 1.
Machine = Callable[[int], bool]
QUIET: Machine = lambda _: False  # noqa: E731
BUSY: Machine = lambda _: True  # noqa: E731


def made(metric: float, busy: bool, steps: float = 100.0) -> Run:
    """With a noise of 0.01, on a machine where a busy minute costs 18 times as much."""
    around = {"others": 1.9 if busy else 0.1}
    return Run(metric + 0.18 * busy, 10.0, {"num_steps": steps * (0.7 if busy else 1.0)}, conditions=around)


def value(index: int) -> float:
    return 2.0 + 0.01 * math.cos(2.4 * index)


def established() -> Experiment:
    return replace(kept(0, [2.0]), runs=tuple(made(value(index), busy=False) for index in range(4)))


def driven(
    incumbent: Experiment,
    machine: Machine,
    edit: tuple[dict[str, str], dict[str, str]] = NULL,
    steps: float = 100.0,
    shift: float = 0.0,
) -> tuple[Verdict, str, Experiment]:
    """Judge an edit that changes the metric by `shift`. Return the verdict, the sides that ran, and the incumbent."""
    pending, turns = Pending(1, "x", "", "", {}, "d", (), 0.0, commit="c"), "c"
    while len(turns) < 60:
        busy = machine(len(turns))
        run = made(value(7 * len(turns)), busy)
        if turns[-1] == "c":
            pending = replace(pending, runs=(*pending.runs, made(value(5 * len(turns)) + shift, busy, steps)))
        else:
            why = why_unlike(Comparison(pending, incumbent, [incumbent], *edit, "minimize"), pending.runs[-1])
            incumbent = replace(
                incumbent, heldout_runs=(*incumbent.heldout_runs, replace(run, rebased=why is not None))
            )
            pending = replace(pending, refreshed=pending.refreshed + 1)
            if why is not None:
                pending = replace(pending, rebases=pending.rebases + 1, rebased_at=len(pending.runs))
        found = judge(Comparison(pending, incumbent, [incumbent], *edit, "minimize"), DecisionConfig())
        if isinstance(found, Verdict):
            return found, turns, incumbent
        turns += found[0]
    raise AssertionError(f"no end in sight: {turns}")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("machine", "most"),
    [
        pytest.param(lambda n: n <= 3, 12, id="busy for the first three runs"),
        pytest.param(lambda n: n > 1, 16, id="busy from the second run on"),
        pytest.param(BUSY, 12, id="busy all the time"),
        pytest.param(lambda n: n % 2 == 0, 40, id="busy in every other run"),
        pytest.param(lambda n: n % 4 in (1, 2), 40, id="busy in two runs of four"),
        pytest.param(lambda n: n in (2, 3, 4), 16, id="busy for a while after the first run"),
    ],
)
@pytest.mark.parametrize("edit", [NULL, SIZE])
def test_an_edit_without_effect_is_judged_in_the_end_and_never_kept(
    machine: Machine, most: int, edit: tuple[dict[str, str], dict[str, str]]
) -> None:
    found, turns, _ = driven(established(), machine, edit)
    assert found.status == "discard", (found.reason, turns)
    assert len(turns) <= most, (found.reason, turns)


@pytest.mark.quick
def test_a_constant_that_makes_a_step_longer_is_judged_by_what_it_gives() -> None:
    slower, turns, _ = driven(established(), QUIET, SIZE, steps=60.0, shift=-0.2)
    assert slower.status == "keep"
    assert turns == "ccc"


@pytest.mark.quick
def test_an_incumbent_measured_beside_a_busy_machine_gives_nothing_away_when_that_is_over() -> None:
    """Three busy runs and a run of the incumbent under the same load; the next candidate finds the machine quiet."""
    _, turns, incumbent = driven(established(), BUSY)
    assert turns[:4] == "ccci"
    assert min(run.metric or 0 for run in unbiased(incumbent)) > 2.1
    for edit in (NULL, SIZE):
        found, again, after = driven(incumbent, QUIET, edit)
        assert found.status == "discard", (found.reason, again)
        assert again.startswith("ci"), (found.reason, again)
        assert max(run.metric or 0 for run in unbiased(after)) < 2.05


@pytest.mark.quick
def test_the_one_run_that_tells_the_value_of_an_incumbent_may_fall_into_a_busy_minute() -> None:
    lucky = replace(kept(3, [2.0]), runs=(made(2.0, busy=False),))
    others = replace(kept(0, [2.0]), runs=tuple(made(value(index), busy=False) for index in range(4)))
    busy = replace(lucky, heldout_runs=(made(2.0, busy=True),))
    pending = Pending(4, "x", "", "", {}, "d", (), 0.0, commit="c", runs=(made(1.995, busy=False),))
    assert judge(Comparison(pending, busy, [others, busy], *SIZE, "minimize"), DecisionConfig()) == "incumbent"


@pytest.mark.quick
def test_a_candidate_that_makes_the_machine_swap_is_discarded_and_one_beside_another_program_is_not() -> None:
    def ran(index: int, swapped: float) -> Run:
        return replace(made(value(index), busy=False), conditions={"swapped_gb": swapped})

    def judged(pending: Pending, incumbent: Experiment) -> Verdict | str:
        return judge(Comparison(pending, incumbent, [incumbent], *SIZE, "minimize"), DecisionConfig())

    incumbent = replace(kept(0, [2.0]), runs=(ran(0, 0.0), ran(1, 0.0)))
    swapping = tuple(ran(index, 2.0) for index in range(2, 5))
    pending = Pending(1, "x", "", "", {}, "d", (), 0.0, commit="c", runs=swapping)
    assert judged(pending, incumbent) == "incumbent"
    incumbent = replace(incumbent, heldout_runs=(replace(ran(5, 0.0), rebased=True),))
    pending = replace(pending, refreshed=1, rebases=1, rebased_at=3)
    assert judged(pending, incumbent) == "candidate"
    found = judged(replace(pending, runs=(*swapping, ran(6, 2.0))), incumbent)
    assert isinstance(found, Verdict)
    assert found.reason == f"{ITS_OWN_SWAP}: the machine swapped 2.0 GB, against 0.0 GB for the incumbent"
    over = judged(replace(pending, runs=(*swapping, ran(6, 0.0))), incumbent)
    assert not isinstance(over, Verdict) or ITS_OWN_SWAP not in over.reason


@pytest.mark.quick
def test_disturbed_runs_count_nowhere() -> None:
    runs = (made(1.5, busy=True), made(1.5, busy=False), made(1.5, busy=False))
    clear = replace(kept(2, [1.5], sigmas=9.0), runs=runs)
    assert [run.metric for run in unbiased(clear)] == [1.5, 1.5]
    assert estimate(clear) == 1.5
    quiet = replace(kept(0, [2.0]), runs=(made(2.0, busy=False), made(2.01, busy=False)))
    disturbed = replace(quiet, heldout_runs=(made(2.0, busy=True),))
    assert noise_of([disturbed]).sd == noise_of([quiet]).sd


@pytest.mark.quick
def test_an_incumbent_that_fails_is_asked_for_no_more_and_the_session_moves_on() -> None:
    def tried(incumbent: Experiment, *metrics: float) -> Verdict | str:
        runs = tuple(made(metric, busy=False) for metric in metrics)
        pending = Pending(4, "x", "", "", {}, "d", (), 0.0, commit="c", runs=runs)
        return judge(Comparison(pending, incumbent, [established(), incumbent], *NULL, "minimize"), DecisionConfig())

    failed = Run(None, 3.0, error="out of memory")
    lucky = replace(kept(3, [1.9]), runs=(made(1.9, busy=False),))
    assert tried(replace(lucky, heldout_runs=(failed,) * (MOST_FAILURES - 1)), 1.5) == "incumbent"
    lost = replace(lucky, heldout_runs=(failed,) * MOST_FAILURES)
    better, worse = tried(lost, 1.5, 1.52, 1.51), tried(lost, 2.0)
    assert isinstance(better, Verdict)
    assert better.status == "keep"
    assert isinstance(worse, Verdict)
    assert worse.status == "discard"
    metrics = [1.88]
    while not isinstance(found := tried(lost, *metrics), Verdict):
        assert found == "candidate"
        metrics.append(1.88)
    assert len(metrics) <= MOST_RUNS


def test_a_session_on_a_machine_that_calms_down_goes_on(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_SANDBOX", "off")
    shaky = f'{knowing(SLOW, quick)}loss += 1e-4 * os.getpid() % 0.01\nprint("---")'
    text = (quick / "train.py").read_text().replace('print("---")', shaky)
    text = text.replace('print("num_steps:        10")', 'print("num_steps: ", 63 - 14 * slow)')
    (quick / "train.py").write_text(text.replace("1..16", "off").replace("8..512", "off"))
    commit_all(quick, "runs that are slow on demand")
    monkeypatch.setattr(conditions, "SHORTEST_RUN", 0.0)
    monkeypatch.setattr(conditions, "MORE_CORES", math.inf)
    agent = ("--proposer", "command", "--agent-cmd", "sed -i 's/^RATE = 0.1 /RATE = 0.101 /' train.py")
    slow = "run-1.log run-2.log run-3.log"
    done = call(quick, "run", "--tag", "t", "--max-experiments", "1", *agent, SLOW=slow)
    assert done.returncode == 0, done.stderr
    assert rows(quick)[1]["status"] in ("discard", "keep")
    assert len(events(quick, "measured")) < 20
    rebased = [event for event in events(quick, "measured") if event["rebased"]]
    assert len(rebased) == 1
    assert rebased[0]["of"] == 0
    assert_consistent(quick)


# The noise of a run is derived from the name of its log.
FAILS_AGAIN = (
    WHICH
    + """import math, zlib
log = log[-20:]
if "incumbent" in log and DEPTH != 4:
    sys.exit("no room any more")
loss += 0.06 * math.sin(zlib.crc32(log.encode()))
"""
)


def test_a_session_whose_best_does_not_run_any_more_finds_another(quick: Path, cli: Cli) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace('print("---")', f'{knowing(FAILS_AGAIN, quick)}print("---")'))
    commit_all(quick, "a best that fails when it is run again")
    for count, depth in enumerate((5, 6), start=1):
        change = f"sed -i 's/^DEPTH = [0-9]*/DEPTH = {depth}/' train.py"
        agent = ("--proposer", "command", "--agent-cmd", change)
        done = cli(quick, "run", "--tag", "t", *agent, "--max-experiments", str(count), "--sandbox", "off")
        assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(quick)] == ["keep"] * 3
    failures = [event for event in events(quick, "measured") if event["metric"] is None]
    assert len(failures) == MOST_FAILURES
    assert "#1 failed 3 times in a row when repeated" in done.stderr
    assert_consistent(quick)


TWO_FILES = """import sys
from size import ROWS
DEVICE_BATCH_SIZE = 8  # search: off
if __name__ == "__main__" and ROWS > 1 and DEVICE_BATCH_SIZE > 4:
    raise MemoryError
print(f"val_bpb: {1 + ROWS / 100:.6f}")
"""


def test_a_smaller_batch_in_another_file_than_the_candidates_leaves_a_clean_tree(quick: Path, cli: Cli) -> None:
    surface = {"allowedGlobs": ["train.py", "size.py"], "forbiddenGlobs": ["prepare.py"], "allowedKinds": ["code_edit"]}
    set_protocol(quick, mutableSurface=surface)
    (quick / "size.py").write_text("ROWS = 1  # search: off\n")
    (quick / "train.py").write_text(TWO_FILES)
    git(quick, "add", "-A")
    commit_all(quick, "two files")
    agent = ("--proposer", "command", "--agent-cmd", "sed -i 's/^ROWS = 1/ROWS = 2/' size.py")
    done = cli(quick, "run", "--tag", "t", *agent, "--max-experiments", "1")
    assert done.returncode == 0, done.stderr
    assert rows(quick)[1]["status"] == "discard"
    assert "DEVICE_BATCH_SIZE 8 -> 4" in rows(quick)[1]["description"]
    assert git(quick, "status", "--porcelain", "--untracked-files=no") == ""
    assert events(quick, "revised")[0]["files"] == ["size.py", "train.py"]
    assert "DEVICE_BATCH_SIZE = 8" in (quick / "train.py").read_text()


def test_a_verdict_that_was_written_down_stands(quick: Path, cli: Cli) -> None:
    """Killed between `judged` and `recorded` of a crash: no proposer is asked to repair it any more."""
    crash = """sed -i 's/^print("---")/if __name__ == "__main__": print(1 \\/ 0)/' train.py"""
    command = ("run", "--tag", "t", "--proposer", "command", "--max-experiments", "1", "--agent-cmd")
    done = cli(quick, *command, crash)
    assert rows(quick)[1]["status"] == "crash", done.stderr
    path = journal_path(quick, "t")
    lines = path.read_text().splitlines(keepends=True)
    judged = max(index for index, line in enumerate(lines) if '"event": "judged"' in line)
    head = next(event["head"] for event in journal(quick) if event["event"] == "recorded" and event["number"] == 0)
    path.write_text("".join(lines[: judged + 1]))
    git(quick, "reset", "--quiet", "--hard", head)
    done = cli(quick, *command, "sed -i 's/1 . 0/1/' train.py")
    assert done.returncode == 0, done.stderr
    assert rows(quick)[1]["status"] == "crash"
    later = [event["event"] for event in journal(quick)[judged + 1 :]]
    assert later == ["resumed", "recorded", "ended"]
    assert_consistent(quick)
