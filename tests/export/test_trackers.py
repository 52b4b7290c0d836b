"""`export --to` with real trackers, offline, each installed beside the program for one command.

The slow proof downloads them: `uv run pytest tests/export/test_trackers.py -m slow -n 0`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.export.sessions import load
from agent.export.tracked import of_experiments, of_session
from agent.journal.journal import fold
from agent.journal.paths import journal_path
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from tests.common.journals import JournalBuilder
from tests.common.workspaces import ROOT

VERSIONS = {"wandb": "0.31.0", "trackio": "0.43.0", "tensorboard": "2.21.0"}
# Each prints the runs of a tracker as JSON: name -> {"config": {...}, "steps": [[step, {name: value}], ...]}.
READ = {
    "wandb": """
import glob, json, struct, sys
from wandb.proto.wandb_internal_pb2 import Record

def records(data):  # a LevelDB log: blocks of 32 KiB after 7 bytes, records in parts with a header of 7 bytes
    place, whole = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""

found = {}
for path in glob.glob(sys.argv[1] + "/wandb/offline-run-*/*.wandb"):
    steps, name, config = [], "", {}
    for data in records(open(path, "rb").read()):
        record = Record.FromString(data)
        if record.HasField("run"):
            name = record.run.display_name
            config = {each.key: json.loads(each.value_json) for each in record.run.config.update} or config
        if record.HasField("history"):
            items = {(i.key or i.nested_key[0]): json.loads(i.value_json) for i in record.history.item}
            steps.append([items.pop("_step"), {k: v for k, v in items.items() if k[0] != "_"}])
    found[name] = {"config": config, "steps": steps}
print(json.dumps(found))
""",
    "trackio": """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
found = {}
for name in SQLiteStorage.get_runs("autoresearch"):
    logs = SQLiteStorage.get_logs("autoresearch", name)
    steps = [[e["step"], {k: v for k, v in e.items() if k not in ("step", "timestamp")}] for e in logs]
    found[name] = {"config": SQLiteStorage.get_run_config("autoresearch", name), "steps": steps}
print(json.dumps(found))
""",
    "tensorboard": """
import json, os, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = {}
for folder, _, files in os.walk(sys.argv[1]):
    if not files:
        continue
    events = EventAccumulator(folder)
    events.Reload()
    steps = {}
    for tag in events.Tags()["scalars"]:
        for each in events.Scalars(tag):
            steps.setdefault(each.step, {})[tag] = each.value
    [text] = events.Tensors("config")
    rows = text.tensor_proto.string_val[0].decode().split("\\n")[2:]
    config = dict(row.strip("| ").split(" | ", 1) for row in rows if row.count(" | ") == 1)
    found[os.path.relpath(folder, sys.argv[1])] = {"config": config, "steps": sorted(steps.items())}
print(json.dumps(found))
""",
}


@pytest.fixture
def session(quick: Path) -> Path:
    path = journal_path(quick, "t")
    JournalBuilder("t", logs=path.parent).baseline().mixed(12).save(path)
    return quick


def test_session_is_one_run_with_a_step_for_each_experiment(session: Path) -> None:
    workspace = Workspace(session, load_protocol(session))
    [loaded] = load(workspace, ["t"])
    run, state = of_session(loaded), loaded.state
    assert run.name == "t"
    assert [step.step for step in run.steps] == list(range(13))
    best = [step.values["best"] for step in run.steps]
    assert best == sorted(best, reverse=True)
    assert state.incumbent is not None
    assert best[-1] == state.incumbent.metric
    assert run.config.items() >= state.incumbent.parameters.items()
    assert [step.values.get("val_bpb") for step in run.steps] == [each.metric for each in state.experiments]
    assert all(math.isfinite(value) for step in run.steps for value in step.values.values())
    assert [step.at for step in run.steps] == sorted(step.at for step in run.steps)


def test_experiment_is_a_run_with_its_curve(session: Path) -> None:
    workspace = Workspace(session, load_protocol(session))
    [loaded] = load(workspace, ["t"])
    every = of_experiments(loaded, session, None)
    assert [run.name for run in every] == [f"t/{number:04d}" for number in range(13)]
    for run, each in zip(every, loaded.state.experiments, strict=True):
        assert [step.step for step in run.steps] == [5 * i for i in range(1, 61)]
        assert all("loss" in step.values for step in run.steps)
        assert run.steps[-1].values.get("val_bpb") == each.metric
        assert run.config["status"] == each.verdict.status
        assert run.config.items() >= each.parameters.items()


@pytest.mark.parametrize("name", ["seconds", "gain", "best", "kept", "loss", "step", "timestamp", "_runtime"])
def test_metric_with_a_name_that_is_taken_has_a_prefix(session: Path, name: str) -> None:
    path = journal_path(session, "t")
    text = path.read_text().replace('"metric": "val_bpb"', f'"metric": "{name}"')
    path.write_text(text.replace('"DEPTH": ', '"status": '))
    [loaded] = load(Workspace(session, load_protocol(session)), ["t"])
    assert loaded.state.session is not None
    assert loaded.state.session["metric"] == name
    run, metrics = of_session(loaded), [each.metric for each in loaded.state.experiments]
    assert [step.values.get(f"metric.{name}") for step in run.steps] == metrics
    assert [step.values["seconds"] for step in run.steps] == [each.seconds for each in loaded.state.experiments]
    assert (run.config["metric"], run.config["tag"]) == (name, "t")
    assert "constant.status" in of_experiments(loaded, session, None)[0].config
    every = of_experiments(loaded, session, None)
    assert [each.steps[-1].values.get(f"metric.{name}") for each in every] == metrics
    assert all("loss" in step.values for each in every for step in each.steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VERSIONS])
def test_tracker_reads_what_was_sent(session: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    places = {"WANDB_MODE": "offline", "WANDB_DIR": str(out), "TRACKIO_DIR": str(out), "HF_HUB_OFFLINE": "1"}
    env = {**os.environ, **places, "HOME": os.environ["HOME"]}
    uv = ["uv", "run", "--quiet", "--no-sync", "--project", str(ROOT), "--with", f"{name}=={VERSIONS[name]}"]

    def run(*command: str) -> str:
        done = subprocess.run([*uv, *command], cwd=out, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    send = ("autoresearch", "-C", str(session), "export", "--to", name)
    where = ("--out", str(out)) if name == "tensorboard" else ()
    assert run(*send, *where).startswith("wrote 1 run ")
    assert run(*send, *where, "--runs").startswith("wrote 13 runs ")
    if name == "tensorboard":  # a second export replaces the files of the first
        assert run(*send, *where).startswith("wrote 1 run ")
    found: dict[str, Any] = json.loads(run("python", "-c", READ[name], str(out)))
    state = fold(journal_path(session, "t"))
    assert sorted(found) == sorted(["t", *(f"t/{number:04d}" for number in range(13))])
    assert [step for step, _ in found["t"]["steps"]] == list(range(13))
    for (_, values), each in zip(found["t"]["steps"], state.experiments, strict=True):
        assert values.get("val_bpb") == (pytest.approx(each.metric, rel=1e-6) if each.metric is not None else None)
        assert values["kept"] == (each.verdict.status == "keep")
    assert state.incumbent is not None
    config = found["t"]["config"]
    assert {key: float(config[key]) for key in state.incumbent.parameters} == dict(state.incumbent.parameters)
    curve = found["t/0007"]["steps"]
    assert [step for step, _ in curve] == [5 * i for i in range(1, 61)]
    assert [values["loss"] for _, values in curve[:2]] == pytest.approx([9.08, 6.08])
