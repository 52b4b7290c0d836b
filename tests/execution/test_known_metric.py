"""Runs that fail after they printed or wrote their metric, in a repository without an evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.execution.allowance import References
from agent.execution.measure import Runner, measure
from agent.journal.experiment import Run
from agent.journal.pending import Pending
from agent.protocol.load import load_protocol
from agent.protocol.models import Safety
from agent.repository.workspace import Workspace
from agent.session.opening import prepared
from agent.session.retries import owed
from tests.common.sessions import events, rows
from tests.common.stations import set_train
from tests.common.workspaces import QUICK, Cli, commit_all, quick_protocol, set_protocol

FAULT = 'raise RuntimeError("CUDA error: an illegal memory access was encountered")\n'
FAILURES = [FAULT, "raise MemoryError\n", "raise SystemExit(1)\n"]
PRINTS = "print('val_bpb: 2.5')\n"
WRITES = "open('out.json', 'w').write('{\"loss\": 2.5}')\n"
EPOCHS = 'for epoch in range(3):\n    print(\'{"epoch": %d, "loss": %f}\' % (epoch, 3 - epoch))\n'
POINTER = {"kind": "json_pointer", "pointer": "/loss"}
OF_CANDIDATE = References(other=(Run(2.1, 1.0),))
Opens = Callable[[dict[str, Any] | None], AbstractContextManager[Runner]]


@pytest.fixture
def opened(quick: Path) -> Opens:
    """Returns a function that opens a runner, whose metric has an extraction rule; None for that of `quick`."""

    @contextmanager
    def opens(rule: dict[str, Any] | None) -> Iterator[Runner]:
        if rule is not None:
            measurement = quick_protocol()["measurement"]
            measurement["primaryMetric"]["extract"] = rule
            set_protocol(quick, measurement=measurement)
        protocol = load_protocol(quick)
        with prepared(Runner(protocol, Workspace(quick, protocol), None), setup=False) as ready:
            yield ready

    return opens


@pytest.mark.parametrize("failure", FAILURES, ids=["fault", "memory", "crash"])
@pytest.mark.parametrize(
    ("rule", "knows"),
    [
        (None, PRINTS),
        ({**POINTER, "path": "out.json"}, WRITES),
        (POINTER, EPOCHS),
        (None, PRINTS + PRINTS.replace("2.5", "9.5")),
    ],
    ids=["printed", "written", "in-each-epoch", "ambiguous"],
)
def test_failure_after_the_metric_repeats_nothing(
    opened: Opens, tmp_path: Path, rule: dict[str, Any] | None, knows: str, failure: str
) -> None:
    """Otherwise a run could fail whenever its metric is a bad one, until it is lucky."""
    with opened(rule) as runner:
        place, log = runner.workspace.folder, tmp_path / "run.log"
        found = measure(runner, set_train(place, knows + failure), log, references=OF_CANDIDATE)
        assert (found.metric, found.fault, found.out_of_memory) == (None, "", False)
        assert (found.error or "").startswith("failed after its metric was known: ")
        pending = Pending(1, "llm", "", "", {}, "", (), 0.0, runs=(found,))
        assert owed(pending, Safety.model_validate({"crashStatus": "retry", "oomPolicy": "reduce_batch"})) is None
        # Before it, the same failure is the machine's, or can be mended.
        found = measure(runner, set_train(place, failure + knows), log, references=OF_CANDIDATE)
        assert (found.fault, found.out_of_memory) == ("kernel" * (failure == FAULT), "Memory" in failure)
        assert "metric was known" not in (found.error or "")


def test_baseline_is_repeated_after_a_fault_though_it_gave_its_metric(opened: Opens, tmp_path: Path) -> None:
    with opened(POINTER) as runner:
        found = measure(runner, set_train(runner.workspace.folder, EPOCHS + FAULT), tmp_path / "run.log")
        assert (found.metric, found.fault) == (None, "kernel")


def test_a_bad_draw_is_not_replaced_by_a_faked_fault(quick: Path, cli: Cli, tmp_path: Path) -> None:
    draws = tmp_path / "draws"
    faked = f"""
if RATE != 0.1:
    with open({str(draws)!r}, "a") as file:
        file.write("x")
        if file.tell() % 2:
            {FAULT}"""
    (quick / "train.py").write_text(QUICK.replace("sys.exit(0)\n", faked))
    commit_all(quick, "fakes")
    flags = ("--tag", "t", "--verdict", "greedy", "--sandbox", "off", "--max-experiments", "0")
    assert cli(quick, "run", *flags).returncode == 0
    (quick / "train.py").write_text((quick / "train.py").read_text().replace("RATE = 0.1", "RATE = 0.4"))
    cli(quick, "try", "--tag", "t", "--sandbox", "off")
    assert not events(quick, "faulted")
    assert [row["status"] for row in rows(quick)] == ["keep", "crash"]
    assert "after its metric was known" in str(events(quick, "judged"))
    assert draws.read_text() == "x"
