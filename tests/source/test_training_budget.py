"""Test that training budgets are not searched, and that a candidate that trained for longer is rejected."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agent.decision.longer_training import trains, why_longer
from agent.errors import UsageError
from agent.journal.experiment import Experiment, Run, Value, Verdict
from agent.proposers.search.space import tunable_parameters
from agent.protocol.extract import told_training
from agent.protocol.load import load_protocol
from agent.protocol.models import Protocol
from agent.session.context import known_constants
from agent.source.training_budget import Known, TrainingLimits, timed_names
from tests.common.experiments import kept
from tests.common.sessions import journal, rows
from tests.common.workspaces import ROOT, Cli, commit_all, quick_protocol

RATE = "RATE = 0.1\n"


def searched(source: str, limits: TrainingLimits = TrainingLimits(300.0)) -> set[str]:  # noqa: B008
    return set(tunable_parameters({"train.py": source}, Known({}, limits)))


@pytest.mark.parametrize(
    "name",
    ["TIME_BUDGET", "TRAIN_SECONDS", "TRAINING_SECONDS", "MAX_SECONDS", "WALLCLOCK", "WALL_CLOCK_LIMIT", "MAX_MINUTES",
     "TRAIN_HOURS", "DEADLINE", "TRAIN_TIME", "MAX_TIME", "TIME_LIMIT", "TIMEOUT", "DURATION", "RUN_SECS", "STOP_AFTER",
     "TOKEN_BUDGET", "BUDGET", "TRAINSECONDS", "TRAINING_SECONDS_TOTAL"],
)  # fmt: skip
def test_no_budget_is_searched_by_its_name(name: str) -> None:
    assert searched(f"{name} = 120\n{RATE}") == {"RATE"}
    assert searched(f"{name}: float = 120.5  # search: off\n{RATE}") == {"RATE"}
    with pytest.raises(UsageError, match=rf"train\.py:1: {name} cannot be searched, because longer training"):
        searched(f"{name} = 120  # search: 60..600\n{RATE}")


@pytest.mark.parametrize(
    "name",
    ["TIME_EMBED_DIM", "TIMESTEPS", "WARMUP_SECONDS", "COOLDOWN_MINUTES", "WARMUP_ITERS", "LR_DECAY_ITERS", "NS_STEPS",
     "ACCUM_STEPS", "HEADS", "WIDTH", "DEPTH", "BATCH_SIZE", "SECTIONS", "MIN_LR"],
)  # fmt: skip
def test_what_only_sounds_like_one_is(name: str) -> None:
    for limits in (TrainingLimits(300.0), TrainingLimits(None, 1000, True)):
        assert searched(f"{name} = 12\n{RATE}", limits) == {name, "RATE"}


@pytest.mark.parametrize(
    "code",
    [
        "t0 = time.time()\nwhile time.time() - t0 < T:\n    step()\n",
        "start = time.perf_counter()\nfor i in range(9):\n    if perf_counter() - start >= T: break\n",
        "end = time.monotonic() + T\nwhile time.monotonic() < end: pass\n",
        "t0 = time.time()\nlimit = T * 60\nwhile True:\n    spent = time.time() - t0\n    if spent > limit: break\n",
        "total = 0\nwhile total < T:\n    t0 = time.time()\n    dt = time.time() - t0\n    total += dt\n",
        "t0 = time.time()\nwhile (time.time() - t0) / 60 < T: pass\n",
        "def train(most):\n    t0 = time.time()\n    while time.time() - t0 < most: pass\ntrain(T)\n",
        "def train(most=1):\n    t0 = time.time()\n    while time.time() - t0 < most: pass\ntrain(most=T)\n",
        "t0 = time.time()\nwhile True:\n    done = min((time.time() - t0) / T, 1.0)\n",
        "t0 = time.time()\ndone = 0\nwhile done < 1:\n    done = (time.time() - t0) / T\n",
        "class C:\n    def __init__(self):\n        self.most, self.t0 = T, 0\n        self.most = T\n"
        "    def go(self):\n        return time.time() - self.t0 > self.most\n",
        "signal.alarm(T)\n",
        "threading.Timer(T, stop).start()\n",
        "trainer = Trainer(max_time=T)\n",
        "trainer = Trainer(max_time={'seconds': T})\n",
        "end = datetime.now() + timedelta(seconds=T)\n",
        "def elapsed():\n    return time.time() - t0\nt0 = time.time()\nwhile elapsed() < T: pass\n",
    ],
)
def test_no_budget_is_searched_whatever_its_name(code: str) -> None:
    assert "T" in timed_names(f"T = 7\n{code}")
    assert searched(f"T = 7\n{RATE}{code}", TrainingLimits()) == {"RATE"}
    assert tunable_parameters({"config.py": f"T = 7\n{RATE}", "train.py": code}, {}) == {"RATE": 0.1}


def test_what_is_no_time_is_searched_beside_a_clock() -> None:
    source = """WIDTH = 48
ACCUM = 3
TOKENS = 12
WARMUP_RATIO = 0.1
t0 = time.time()
total = 0
while total < LIMIT:
    dt = time.time() - t0
    total += dt
    speed = TOKENS / dt
    each = dt / ACCUM
    progress = total / LIMIT
    rate = progress / WARMUP_RATIO if progress < WARMUP_RATIO else 1.0
    print(step + WIDTH, dt * 1000, speed * WIDTH)
"""
    assert searched(source) == {"WIDTH", "ACCUM", "TOKENS", "WARMUP_RATIO"}


def test_our_own_recipe_loses_nothing() -> None:
    known: dict[str, Value] = {"PROFILE": "mac", "MAX_SEQ_LEN": 2048, "VOCAB_SIZE": 8192}
    files = {"train.py": (ROOT / "train.py").read_text()}
    limits = known_constants(load_protocol(ROOT)).limits
    assert limits == TrainingLimits(300.0, None, False)
    assert tunable_parameters(files, Known(known, limits)) == tunable_parameters(files, known)
    assert len(tunable_parameters(files, known)) > 15


@pytest.mark.parametrize("value", ["300", "300.0"])
def test_the_protocols_own_number_is_known_by_its_value(value: str) -> None:
    assert searched(f"HORIZON = {value}\nT = {value}\n{RATE}") == {"RATE"}
    assert searched(f"HORIZON = {value}\n{RATE}", TrainingLimits(None)) == {"HORIZON", "RATE"}
    assert searched(f"EMBED = 300\n{RATE}") == {"EMBED", "RATE"}


@pytest.mark.parametrize(
    "name", ["MAX_ITERS", "NUM_STEPS", "STEPS", "N_EPOCHS", "EPOCHS", "TRAIN_STEPS", "TOTAL_TRAINING_STEPS", "ROUNDS"]
)
def test_steps_are_a_budget_where_the_protocols_is_in_steps(name: str) -> None:
    source = f"{name} = 1000\n{RATE}WARMUP_STEPS = 70\n"
    assert searched(source, TrainingLimits(None, 1000, True)) == {"RATE", "WARMUP_STEPS"}
    assert name in searched(source, TrainingLimits(300.0, None, False))


def test_a_protocol_in_epochs_is_read() -> None:
    stop = {"type": "epochs", "epochs": 12}
    content = quick_protocol(execution={**quick_protocol()["execution"], "stopCondition": stop})
    assert known_constants(Protocol.model_validate(content)).limits == TrainingLimits(None, 12, True)


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("training_seconds: 300.1", 300.1),
        ("training time = 1,300.5 s", 1300.5),
        ("\x1b[1mtrain_time: 12\x1b[0m", 12.0),
        ("training_seconds: 300.1\ntraining_seconds: 301.5", 301.5),
        ("training_seconds: soon", None),
        ("training_seconds: 5 min", None),
        ("total_seconds: 400", None),
    ],
)
def test_the_time_of_training_that_a_log_tells(line: str, seconds: float | None) -> None:
    assert told_training(f"step 1\n{line}\ndone\n") == seconds


def timed(*seconds: float, trained: float | None = None, **more: Any) -> list[Run]:
    return [Run(1.0, each, trained=trained, **more) for each in seconds]


def based(*seconds: float, trained: float | None = None) -> Experiment:
    return dataclasses.replace(kept(0, [2.0]), runs=tuple(timed(*seconds, trained=trained)))


@pytest.mark.parametrize(
    ("candidate", "baseline", "said"),
    [
        (timed(620.0), based(320.0), "it ran for 620.0 s, the baseline for 320.0 s"),
        (timed(620.0, 330.0), based(320.0), None),  # noise can only make a run longer, so the shortest counts
        (timed(330.0), based(320.0), None),
        (timed(390.0), based(320.0, 322.0), None),  # a larger model, evaluated at the end
        (timed(420.0), based(320.0), "it ran for 420.0 s"),
        (timed(4.2), based(2.1), "it ran for 4.2 s, the baseline for 2.1 s"),
        (timed(3.0), based(2.1), None),
        (timed(0.9), based(0.05), None),
        (timed(5.0), based(0.4), None),  # well below a second, where no time can be gained
        # A slower compilation with the same training time, and a training time that the log reports to be longer.
        (timed(520.0, trained=300.2), based(320.0, trained=300.1), None),
        (
            timed(450.0, trained=420.2),
            based(320.0, trained=300.1),
            "it trained for 420.2 s according to its log, the baseline for 300.1 s",
        ),
        (timed(700.0, trained=300.2), based(320.0, trained=300.1), "it ran for 700.0 s"),
        (timed(620.0, trained=300.2), based(320.0), "it ran for 620.0 s"),
        (timed(620.0, source="attested"), based(320.0), None),
        (timed(620.0, source="untraced"), based(320.0), "it ran for 620.0 s"),  # its evaluator saw no model
        ([Run(None, 900.0)], based(320.0), None),
    ],
)
def test_what_trained_for_clearly_longer_is_told(candidate: list[Run], baseline: Experiment, said: str | None) -> None:
    why = why_longer(candidate, baseline, baseline)
    assert (why is None) if said is None else (why is not None and said in why)


def test_a_machine_that_has_become_slower_makes_nobody_longer() -> None:
    incumbent = dataclasses.replace(kept(3, [1.9]), runs=tuple(timed(330.0)), heldout_runs=tuple(timed(500.0)))
    assert why_longer(timed(520.0), based(320.0), incumbent) is None
    assert why_longer(timed(520.0), based(320.0), dataclasses.replace(incumbent, heldout_runs=())) is not None


def test_a_disturbed_run_of_the_incumbent_makes_nobody_longer() -> None:
    usual = [dataclasses.replace(run, conditions={"others": 0.0}) for run in timed(330.0, 331.0)]
    busy = [dataclasses.replace(run, conditions={"others": 900.0}) for run in timed(500.0)]
    incumbent = dataclasses.replace(kept(3, [1.9]), runs=tuple(usual), heldout_runs=(*usual, *busy))
    assert why_longer(timed(520.0), based(320.0), incumbent) is not None


def test_a_disturbed_run_of_the_baseline_makes_nobody_longer() -> None:
    busy = [dataclasses.replace(run, conditions={"others": 900.0}) for run in timed(500.0)]
    usual = [dataclasses.replace(run, conditions={"others": 0.0}) for run in timed(320.0, 321.0)]
    baseline = dataclasses.replace(kept(0, [2.0]), runs=tuple(usual), heldout_runs=tuple(busy))
    assert why_longer(timed(520.0), baseline, baseline) is not None


def test_a_machine_that_stays_busy_makes_nobody_longer() -> None:
    """Its state has changed, which a run of the incumbent marks."""
    quiet = [dataclasses.replace(run, conditions={"others": 0.0}) for run in timed(330.0, 331.0)]
    (since,) = (dataclasses.replace(run, conditions={"others": 5.0}, rebased=True) for run in timed(500.0))
    incumbent = dataclasses.replace(kept(3, [1.9]), runs=tuple(quiet), heldout_runs=(*quiet, since))
    assert why_longer(timed(520.0), based(320.0), incumbent) is None


def test_where_the_work_itself_is_measured_its_time_is_no_training() -> None:
    def of(archetype: str, **stop: Any) -> bool:
        execution = {key: value for key, value in quick_protocol()["execution"].items() if key != "stopCondition"}
        meta = {**quick_protocol()["meta"], "archetype": archetype}
        content = quick_protocol(meta=meta, execution={**execution, **({"stopCondition": stop} if stop else {})})
        return trains(Protocol.model_validate(content))

    assert of("ml_train")
    assert of("pipeline_job")
    assert of("unknown")
    assert of("benchmark_opt", type="wall_clock")
    assert of("solver_compete", type="max_steps", maxSteps=10)
    assert not of("build_test")
    assert not of("benchmark_opt", type="fixed_suite")


SLOW = """import time
{name} = {value}
SHARE = 0.1  # search: off
began = time.time()
steps = 0
while {condition} and __name__ == "__main__":  # the dry check imports it
    steps += 1
    time.sleep(0.01)
print(f"val_bpb: {{2 - steps / 1e4:.6f}}")
"""


def test_a_longer_run_is_void_and_its_row_has_both_numbers(quick: Path, cli: Cli, tmp_path: Path) -> None:
    """A coding agent raises a budget that nothing identifies as one."""
    source = SLOW.format(name="ROUNDS", value="130  # search: off", condition="steps < ROUNDS")
    source += "RATE = 0.1\n"
    (quick / "train.py").write_text(source)
    commit_all(quick, "slow")
    script = tmp_path / "agent.sh"
    script.write_text("#!/bin/sh\nsed -i 's/= 130/= 500/' train.py\n")
    script.chmod(0o755)
    done = cli(
        quick, "run", "--tag", "t", "--max-experiments", "1", "--verdict", "greedy", "--agent-cmd", str(script),
        "--proposer", "command", "--sandbox", "off", "--no-prune",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = rows(quick)[1]
    assert row["status"] == "discard", row
    assert "voided: it ran for 5." in row["description"], row
    assert "the baseline for 1." in row["description"]
    assert sum(e["event"] == "measured" and e["number"] == 1 for e in journal(quick)) == 2


def test_a_recipe_within_its_clock_is_kept_whatever_it_is_called(quick: Path, cli: Cli) -> None:
    """Only SHARE is searched: the name PATIENCE does not identify a budget, but the code compares it with a clock."""
    source = SLOW.format(name="PATIENCE", value=1.2, condition="time.time() - began < PATIENCE")
    source = source.replace("# search: off", "# search: 0.05..0.9").replace("steps / 1e4", "SHARE")
    (quick / "train.py").write_text(source)
    commit_all(quick, "clocked")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "3", "--verdict", "greedy")
    assert done.returncode == 0, done.stderr
    assert all("PATIENCE" not in row["description"] and "void" not in row["description"] for row in rows(quick))
    assert "keep" in [row["status"] for row in rows(quick)[1:]]


def test_a_void_number_counts_nowhere() -> None:
    for word in ("voided", "void"):  # earlier versions wrote the second
        verdict = Verdict("discard", f"{word}: it ran for 9 s, the baseline for 3 s")
        voided = dataclasses.replace(kept(1, [1.0]), verdict=verdict)
        assert voided.voided
        assert voided.metric is None
    assert not kept(1, [1.0]).voided
