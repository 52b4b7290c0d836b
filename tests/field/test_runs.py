"""The figures of a run of `field`."""

from __future__ import annotations

import pytest

from agent.errors import AutoresearchError
from agent.field.runs import failed, figures, mean_lost, noise, with_figures
from agent.journal.experiment import Run
from agent.protocol.extract import extract
from agent.protocol.models import Protocol
from tests.common.field_figures import run_figures
from tests.common.workspaces import quick_protocol

pytestmark = pytest.mark.quick

LOG = """data: 0.2s | profile cpu | vocabulary 2,048
first step, with any compilation: 1.3s
step 00001 (50.0%) | loss: 3.1 | tok/sec: 20,000 | remaining: 1s
evaluation: 2.5s
---
val_bpb:          1.900000
training_seconds: 10.0
total_seconds:    15.0
peak_vram_mb:     251.4
mfu_percent:      41.80
total_tokens_M:   0.2
num_steps:        26
"""


def read(log: str) -> dict[str, float]:
    protocol = with_figures(Protocol.model_validate(quick_protocol()))
    return {metric.name: extract(metric, log) for metric in protocol.measurement.secondary_metrics}


def test_figures_are_read_from_the_log_of_train_py() -> None:
    run = Run(1.9, 14.0, secondary=read(LOG), trained=10.0)
    found = figures(run, 8192, 14.5)
    assert (found["steps"], found["training_seconds"], found["mfu_percent"], found["peak_mb"]) == (26, 10, 41.8, 251.4)
    assert found["step_ms"] == pytest.approx(384.6, abs=0.1)
    assert found["tokens_per_second"] == 21299
    assert found["lost"] == {
        "total": 4.5, "data": 0.2, "first step": 1.3, "evaluation": 2.5, "room": 0.5, "start and rest": 0.0,
    }  # fmt: skip


def test_tokens_come_from_the_summary_if_the_batch_is_unknown() -> None:
    found = figures(Run(1.9, 14.0, secondary=read(LOG)), None, 14.5)
    assert found["tokens_per_second"] == pytest.approx(20_000, rel=0.01)


def test_run_that_prints_only_a_metric_has_no_other_figures() -> None:
    found = figures(Run(1.9, 14.0), 8192, 14.5)
    assert found["metric"] == 1.9
    assert {found[name] for name in ("steps", "training_seconds", "step_ms", "tokens_per_second", "lost")} == {None}


def test_protocols_own_metrics_are_not_replaced() -> None:
    protocol = Protocol.model_validate(quick_protocol())
    own = protocol.measurement.secondary_metrics
    assert with_figures(protocol).measurement.secondary_metrics[: len(own)] == own


def test_noise_needs_two_runs_and_leaves_out_failures() -> None:
    assert noise([run_figures(1.9), run_figures(None)]) is None
    found = noise([run_figures(1.9), run_figures(None), run_figures(2.1)])
    assert found is not None
    assert found["metric"]["mean"] == pytest.approx(2.0)
    assert found["metric"]["sd"] == pytest.approx(0.1414, rel=1e-3)
    assert (found["metric"]["low"], found["metric"]["high"], found["metric"]["runs"]) == (1.9, 2.1, 2)
    assert mean_lost([run_figures(None)]) is None


def test_reason_of_a_failed_baseline_is_the_runs_own() -> None:
    assert failed(AutoresearchError("the baseline failed: out of memory: exit code 1")).error == (
        "out of memory: exit code 1"
    )
