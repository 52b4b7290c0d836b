"""A command tried for real, in a copy of what is committed: under its limits and in its sandbox, as the loop has it."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.errors import AutoresearchError
from agent.measure import Bench, execute, last_lines, measure, require_success
from agent.paths import state_folder
from agent.protocol import Protocol
from agent.sandbox import Sandbox
from agent.setup import set_up
from agent.workspace import Workspace

LOG = "init.log"
TOLD_EVERY = 15.0
# Data that git does not track is copied where it is small; what is larger is linked, which only a sandbox makes safe.
LARGEST_COPY = 64 * 2**20
LEFT_BEHIND = {"__pycache__", "build", "dist", "results.tsv", "run.log", "protocol.json"}
NO_NETWORK = (
    "Temporary failure in name resolution",
    "Name or service not known",
    "nodename nor servname provided",
    "Network is unreachable",
    "Failed to establish a new connection",
)


@dataclass(frozen=True)
class Trial:
    """since: Unix time of its start; files: those of JSON that it wrote, relative to the workspace."""

    seconds: float
    text: str
    since: float
    files: dict[str, str]


@contextlib.contextmanager
def copied(workspace: Workspace) -> Iterator[Path]:
    """A throw-away copy of the workspace, as HEAD has it, in a repository of its own."""
    with TemporaryDirectory(prefix="autoresearch-init-", ignore_cleanup_errors=True) as name:
        yield workspace.copy(Path(name).resolve() / workspace.folder.name)


def lend_small(workspace: Workspace, copy: Path) -> list[str]:
    """Give the copy the small files and folders that git does not track, its data perhaps. Returns the large ones."""
    large = []
    for name in workspace.untracked():
        source, target = workspace.folder / name, copy / name
        parts = Path(name).parts
        hidden = any(part.startswith(".") for part in parts)
        if hidden or LEFT_BEHIND & {*parts} or not target.parent.is_dir() or target.exists():
            continue
        if not _is_small(source):
            large.append(name)
        elif source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target, follow_symlinks=False)
    return large


def lend_large(workspace: Workspace, copy: Path, names: list[str]) -> None:
    """Let the copy see the person's own folders; what a run could spoil only in a sandbox, which keeps it whole."""
    for name in names:
        if not (copy / name).exists():
            (copy / name).symlink_to(workspace.folder / name)


def prepare(rules: Protocol, copy: Path, say: Callable[[str], None]) -> None:
    """The set-up commands, as `run` gives them to the workspace itself before its first run."""
    set_up(rules, copy, state_folder(copy), say)


def attempt(rules: Protocol, copy: Path, budget: float | None, sandbox: Sandbox) -> Trial:
    """Run the command once. Raises ExperimentError where it fails, AutoresearchError where the loop cannot use it."""
    with _bench(rules, copy, budget, sandbox) as bench:
        log = state_folder(copy) / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        since = time.time()
        ended = execute(bench, log, None, lambda _: None, _telling(log))
        text = log.read_text(errors="replace")
        require_success(ended, text)
        changed = bench.workspace.changes()
        if changed:
            names = ", ".join(changed[:3])
            raise AutoresearchError(
                f"`{rules.execution.command}` changes {names}, which git tracks, so each of its runs would be void: "
                f"let git forget it (`git rm --cached {changed[0]}`, a line in .gitignore, a commit), then run again"
            )
        return Trial(ended.seconds, text, since, _written(bench.workspace, since))


def again(rules: Protocol, copy: Path, budget: float | None, sandbox: Sandbox) -> float:
    """The metric of one more run, measured just as the loop will. Raises AutoresearchError where there is none."""
    with _bench(rules, copy, budget, sandbox) as bench:
        log = state_folder(copy) / "again.log"
        run = measure(bench, log, lambda _: None, _telling(log))
        if run.metric is None:
            raise AutoresearchError(
                f"a first run of `{rules.execution.command}` gave {rules.metric.name}, a second one not: {run.error}"
            )
        return run.metric


def tail(copy: Path, count: int) -> list[str]:
    """The last lines of what the command said in `attempt`; they go with the copy."""
    return last_lines(state_folder(copy) / LOG, count)


def wants_network(copy: Path) -> bool:
    said = "\n".join(tail(copy, 60))
    return any(sign in said for sign in NO_NETWORK)


@contextlib.contextmanager
def _bench(rules: Protocol, copy: Path, budget: float | None, sandbox: Sandbox) -> Iterator[Bench]:
    workspace = Workspace(copy, rules)
    try:
        yield Bench(rules, workspace, budget, sandbox)
    finally:
        workspace.close()


def _telling(log: Path) -> Callable[[float], None]:
    """A line now and then on a long run: what it said last."""
    due = TOLD_EVERY

    def tick(seconds: float) -> None:
        nonlocal due
        if seconds >= due:
            due += TOLD_EVERY
            print(f"  {seconds:.0f} s  {''.join(last_lines(log))[:100]}", file=sys.stderr, flush=True)

    return tick


def _written(workspace: Workspace, since: float) -> dict[str, str]:
    """path -> text of each file of JSON in the folder that this run wrote."""
    found = {}
    for name in workspace.untracked():
        path = workspace.folder / name
        if name.startswith(".") or path.is_symlink():
            continue
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                stat = file.stat()
                if file.suffix in (".json", ".jsonl") and stat.st_mtime >= since and stat.st_size < 2**20:
                    found[file.relative_to(workspace.folder).as_posix()] = file.read_text()
    return found


def _is_small(path: Path) -> bool:
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(OSError):
            total += file.lstat().st_size
        if total > LARGEST_COPY:
            return False
    return True
