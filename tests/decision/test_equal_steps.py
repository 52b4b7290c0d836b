"""The effect of the machine's speed on a metric, estimated from repeated runs and removed from a comparison."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.decision.decide import Comparison, DecisionConfig, judge
from agent.decision.equal_steps import SLOPE_NOISE, slope_of
from agent.decision.noise import Noise, noise_of, pooled
from agent.journal.experiment import Experiment, Run, Verdict
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.journal.pending import Pending
from agent.source.diff import same_work
from benchmarks import verdict as simulation
from tests.common.sessions import assert_consistent, rows
from tests.common.workspaces import Cli, commit_all

SLOPE, LEFT = -0.3, 0.002


def runs(level: float, steps: Sequence[float], seed: int = 0) -> list[Run]:
    """Return runs of one program on a machine of changing speed."""
    rng = random.Random(seed)
    return [Run(level + SLOPE * math.log(n / 40) + rng.gauss(0, LEFT), 10.0, {"num_steps": n}) for n in steps]


GROUPS = [runs(1.8, (40, 36, 42, 34), 1), runs(1.7, (80, 88, 72), 2), runs(1.9, (20, 21), 3)]
RAW = pooled([[run.metric or 0.0 for run in group] for group in GROUPS], 1.8)


@pytest.mark.quick
@pytest.mark.parametrize("unit", [2.0**-970, 2.0**-530, 2.0**330, 2.0**970])
def test_slope_scales_with_the_unit_of_the_metric(unit: float) -> None:
    groups = [[Run((run.metric or 0.0) * unit, 10.0, run.secondary) for run in group] for group in GROUPS]
    plain, scaled = slope_of(GROUPS, (), RAW, "minimize"), slope_of(groups, (), pooled_in(groups, unit), "minimize")
    assert plain is not None
    assert scaled is not None
    assert (scaled.per_log / unit, scaled.noise.sd / unit) == pytest.approx((plain.per_log, plain.noise.sd))
    assert scaled.variance_at(0.2) == pytest.approx(plain.variance_at(0.2))


def pooled_in(groups: Sequence[Sequence[Run]], unit: float) -> Noise:
    return pooled([[run.metric or 0.0 for run in group] for group in groups], 1.8 * unit)


@pytest.mark.quick
def test_slope_is_learned_from_repeated_runs() -> None:
    found = slope_of(GROUPS, (), RAW, "minimize")
    assert found is not None
    assert found.per_log == pytest.approx(SLOPE, abs=0.05)
    assert 0 < found.noise.sd < 0.3 * RAW.sd
    assert found.noise.degrees == RAW.degrees - 1
    turned = [[Run(-(run.metric or 0.0), 10.0, run.secondary) for run in group] for group in GROUPS]
    other = slope_of(turned, (), RAW, "maximize")
    assert other is not None
    assert other.per_log == pytest.approx(-found.per_log)
    assert slope_of(turned, (), RAW, "minimize") is None  # more steps make nothing worse


@pytest.mark.quick
def test_incumbent_is_adjusted_to_steps_of_candidate() -> None:
    found = slope_of(GROUPS, (), RAW, "minimize")
    assert found is not None
    slower = runs(1.8, (32, 32), 9)
    adjusted = found.adjusted(GROUPS[0], slower)
    assert sum(adjusted) / 4 == pytest.approx(1.8 + SLOPE * math.log(32 / 40), abs=0.01)
    away = math.log(32) - sum(math.log(n) for n in (40, 36, 42, 34)) / 4
    assert found.added_variance(GROUPS[0], slower) >= (SLOPE_NOISE * found.per_log * away / found.noise.sd) ** 2
    assert found.added_variance(GROUPS[0], GROUPS[0]) == pytest.approx(0.0)


@pytest.mark.quick
def test_incumbent_is_not_adjusted_without_repeated_runs() -> None:
    uncounted = [[Run(run.metric, 10.0) for run in group] for group in GROUPS]
    assert slope_of(uncounted, (), RAW, "minimize") is None
    assert slope_of(GROUPS, [Run(1.8, 10.0)], RAW, "minimize") is None
    equal = [[Run(run.metric, 10.0, {"num_steps": 40}) for run in group] for group in GROUPS]
    assert slope_of(equal, (), RAW, "minimize") is None
    assert slope_of(GROUPS[2:], (), RAW, "minimize") is None
    assert slope_of([], (), RAW, "minimize") is None


@pytest.mark.quick
@pytest.mark.parametrize(
    ("names", "same"),
    [
        ({"MATRIX_LR", "ADAM_BETA1", "WEIGHT_DECAY"}, True),
        ({"LEARNING_RATE", "WARMUP_RATIO", "ROPE_BASE", "SEED"}, True),
        ({"MUON_STEPS"}, False),
        ({"BASE_CHANNELS"}, False),
        ({"SAMPLE_RATE"}, False),
        ({"DROPOUT_RATE"}, False),
        ({"MATRIX_LR", "DEPTH"}, False),
        ({"TOTAL_BATCH_SIZE"}, False),
        ({"code"}, False),
    ],
)
def test_which_edits_leave_the_work_of_a_step_as_it_is(names: set[str], same: bool) -> None:
    assert same_work(names) == same


def judged(name: str, candidate: Sequence[Run]) -> Verdict | str:
    incumbent = Experiment(0, "x", "", "c", "d", {}, tuple(GROUPS[0]), Verdict("keep", ""))
    before = Experiment(1, "x", "", "c", "e", {}, (GROUPS[1][0], *GROUPS[1]), Verdict("discard", ""))
    pending = Pending(2, "x", "", "", {}, "f", (), 0.0, commit="c", runs=tuple(candidate))
    ours, theirs = ({"a.py": f"{name} = {value}\n"} for value in (2, 1))
    return judge(Comparison(pending, incumbent, [incumbent, before], ours, theirs, "minimize"), DecisionConfig())


def test_step_rate_neither_hides_nor_creates_gain() -> None:
    better = runs(1.77, (35, 36, 35), 5)
    found = judged("RATE", better)
    assert isinstance(found, Verdict)
    assert found.status == "keep"
    assert "at equal steps" in found.reason
    assert found.evidence is not None
    assert found.evidence.mean == pytest.approx(1.77 + SLOPE * math.log(35.5 / 40), abs=0.01)
    assert found.evidence.doubt is not None
    assert found.evidence.gain == pytest.approx(0.03, abs=0.01)
    wider = judged("WIDTH", better)
    assert isinstance(wider, str) or wider.status == "discard"
    lucky = judged("RATE", runs(1.8, (46, 46), 6))
    assert isinstance(lucky, str) or lucky.status == "discard"


def test_error_rates_hold_on_drifting_machine() -> None:
    """A small version of `benchmarks.verdict`: false keeps and runs stay within bounds, and power is higher."""
    sessions = [simulation.null_session("confirm", "drifting", 1.0, 100, seed) for seed in range(30)]
    keeps, taken, _ = zip(*sessions, strict=True)
    assert sum(keeps) <= 25
    assert sum(taken) / 3000 <= 1.33
    names = ("drifting", "drifting, steps not counted")
    with_steps, without = (
        sum(simulation.established("confirm", name, 1.0, 2.0, seed) for seed in range(200)) for name in names
    )
    assert with_steps >= 1.2 * without  # 0.85 and 0.61 of 200


def test_drifting_session_judges_at_equal_steps(quick: Path, cli: Cli) -> None:
    """Steps and metric follow a counter as their clock, as on a shared machine."""
    text = (quick / "train.py").read_text()
    drift = (
        "import math, pathlib\n"
        f"count = pathlib.Path({str(quick.parent / 'count')!r})\n"
        "turn = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(turn + 1))\n"
        "steps = round(60 + 6 * math.sin(turn))\n"
        "loss += -0.3 * math.log(steps / 60) + 0.002 * math.cos(7 * turn)\n"
    )
    only_rate = text.replace("# search: 1..16", "# search: off").replace("# search: 8..512", "# search: off")
    drifting = only_rate.replace('print("---")', f'{drift}print("---")').replace(
        '"num_steps:        10"', 'f"num_steps: {steps}"'
    )
    (quick / "train.py").write_text(drifting)
    commit_all(quick, "a machine that drifts")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "8", "--sandbox", "off")
    assert done.returncode == 0, done.stderr
    assert_consistent(quick)
    state = fold(journal_path(quick, "t"))
    restated = [e for e in state.experiments if e.verdict.evidence and e.verdict.evidence.doubt is not None]
    assert restated
    assert all("at equal steps" in e.verdict.reason for e in restated)
    assert all(e.verdict.evidence and e.verdict.evidence.noise < noise_of(state.experiments).sd for e in restated)
    for row, experiment in zip(rows(quick), state.experiments, strict=True):
        assert float(row["val_bpb"]) == pytest.approx(experiment.metric, abs=1e-6)
    shown = json.loads(cli(quick, "show", str(restated[0].number), "--json").stdout)["data"]
    assert shown["evidence"]["doubt"] >= 0
