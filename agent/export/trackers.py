"""Hand runs to the tracker that the user has installed: Weights & Biases, TensorBoard or Trackio.

None of them is a dependency. A tracker that is missing, or that fails, ends the command with one sentence.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, PreconditionError, fault
from agent.export.tracked import Tracked
from agent.format import counted
from agent.journal.paths import state_folder
from agent.system.invocation import here, program, typed

PROJECT = "autoresearch"
SUFFIX = f".{PROJECT}"  # of the event files that this program wrote, and may replace


def send(to: str, runs: Sequence[Tracked], workspace: Path, out: Path | None) -> list[str]:
    """Write the runs with a tracker's own package. Return the lines to print.

    Args:
        to: the name of the tracker.
        runs: what to send.
        workspace: the workspace.
        out: the folder of TensorBoard's event files; None takes one in the state folder.

    Raises:
        PreconditionError: its package is not installed.
        AutoresearchError: its package failed.
    """
    require(to, workspace)
    folder = out or state_folder(workspace) / "tensorboard"
    try:
        # Trackers print at will, and stdout is for what this command says.
        with contextlib.redirect_stdout(sys.stderr):
            return _SEND[to](runs, folder)
    except AutoresearchError:
        raise
    except Exception as error:  # whatever the package raises
        raise AutoresearchError(
            f"{to} failed: {fault(error)}", hint=f"check that {to} works in a script of its own, then repeat"
        ) from error


def require(name: str, workspace: Path) -> None:
    """Refuse to go on without a package. Nothing of the workspace is imported in its place.

    Raises:
        PreconditionError: it is not installed.
    """
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    # wandb keeps its runs in a folder `wandb`, which Python would import as an empty package.
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).resolve()
        if "site-packages" in file.parts or not file.is_relative_to(workspace.resolve()):
            return
    fix = f"uv pip install --python {shlex.quote(sys.executable)} {name}"
    if program().startswith("uv run "):
        fix = typed(f"export --to {name}").replace("uv run ", f"uv run --with {name} ", 1)
    raise PreconditionError(f"{name} is not installed beside this program", hint=f"run `{fix}`")


def _to_wandb(runs: Sequence[Tracked], _: Path) -> list[str]:
    wandb = importlib.import_module("wandb")
    # The runs are over: what this machine does now is not theirs.
    settings = {"console": "off", "x_disable_stats": True, "disable_git": True, "save_code": False}
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    for each in runs:
        run = wandb.init(project=project, name=each.name, group=each.group, config=dict(each.config), settings=settings)
        for step in each.steps:
            run.log(dict(step.values), step=step.step)
        run.finish()
    return [f"wrote {counted(len(runs), 'run')} to wandb, project {project}"]


def _to_trackio(runs: Sequence[Tracked], _: Path) -> list[str]:
    trackio = importlib.import_module("trackio")
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    wanted = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    for each in runs:
        options = {**wanted, "name": each.name, "group": each.group, "config": dict(each.config)}
        trackio.init(project, **_accepted(trackio.init, options))
        for step in each.steps:
            trackio.log(dict(step.values), step=step.step)
        trackio.finish()
    return [
        f"wrote {counted(len(runs), 'run')} to trackio, project {project}",
        f"look at them with `trackio show --project {project}`",
    ]


def _to_tensorboard(runs: Sequence[Tracked], folder: Path) -> list[str]:
    writer = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    for each in runs:
        place = folder / each.name
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob(f"events.out.tfevents.*{SUFFIX}"):
            old.unlink()
        file = writer.EventFileWriter(str(place), filename_suffix=SUFFIX)
        began = each.steps[0].at if each.steps else 0.0
        file.add_event(_event(began, 0, {}, config=each.config))
        for step in each.steps:
            file.add_event(_event(step.at, step.step, step.values))
        file.close()
    where = here(folder)
    return [f"wrote {counted(len(runs), 'run')} below {where}", f"look at them with `tensorboard --logdir {where}`"]


def _event(at: float, step: int, values: Mapping[str, float], config: Mapping[str, Any] | None = None) -> Any:
    """Return an event with scalars, and with the configuration as a Markdown table among TensorBoard's texts."""
    event_pb2 = importlib.import_module("tensorboard.compat.proto.event_pb2")
    summary_pb2 = importlib.import_module("tensorboard.compat.proto.summary_pb2")
    value = summary_pb2.Summary.Value
    scalars = [value(tag=name, simple_value=number) for name, number in values.items()]
    if config is not None:
        rows = "\n".join(f"| {name} | {str(item).replace('|', chr(92) + '|')} |" for name, item in config.items())
        tensors = importlib.import_module("tensorboard.compat.proto.tensor_pb2")
        types = importlib.import_module("tensorboard.compat.proto.types_pb2")
        text = tensors.TensorProto(dtype=types.DT_STRING, string_val=[f"| | |\n|---|---|\n{rows}".encode()])
        about = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "text"})
        scalars.append(value(tag="config", metadata=about, tensor=text))
    return event_pb2.Event(wall_time=at, step=step, summary=summary_pb2.Summary(value=scalars))


def _accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that this version of a package knows."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


_SEND: Mapping[str, Callable[[Sequence[Tracked], Path], list[str]]] = {
    "trackio": _to_trackio,
    "wandb": _to_wandb,
    "tensorboard": _to_tensorboard,
}
