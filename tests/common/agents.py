"""Coding agents as scripts: honest ones, hostile ones, and the notes that they leave."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.proposers.agent.command import CommandProposer
from agent.room import sandbox
from agent.room.sandbox import UNCONFINED, Sandbox
from tests.common.workspaces import QUICK

BETTER = QUICK.replace("RATE = 0.1", "RATE = 0.3")
# The beginning of every agent: it reads its prompt like a real one.
BEGIN = """
import os, pathlib, shutil, subprocess, sys, time
prompt = pathlib.Path(sys.argv[1]).read_text()
train = pathlib.Path("train.py")
def put(old, new):
    text = train.read_text()
    assert old in text, text
    train.write_text(text.replace(old, new))
def note(text):
    pathlib.Path("autoresearch-notes.md").write_text(text)
def run(*args):
    subprocess.run(args, check=True, capture_output=True)
"""
HONEST = 'put("RATE = 0.1", "RATE = 0.3")\n'
WITH_NOTES = (
    'note("# Mine\\n\\nDESCRIPTION: a larger rate\\nHYPOTHESIS: it was \\x1b[31mtoo small\\nEXPECTED: -0.05 or so")\n'
)
WAY = sandbox.available(network=True)
CONFINED = Sandbox(WAY, network=False, hide=True)
NEEDS_ONE = pytest.mark.skipif(WAY is None, reason="no sandbox works here")
# Each also makes an honest change: that is kept, the rest is ignored, and a line reports it.
HOSTILE = {
    "edits prepare.py": (
        "pathlib.Path('prepare.py').write_text('HARNESS = False')",
        "changed prepare.py, which is not a mutable file",
    ),
    "deletes a tracked file": ("os.remove('protocol.json')", "deleted protocol.json, which is not a mutable file"),
    "makes a new file": ("pathlib.Path('mlx.py').write_text('')", "created mlx.py, which is not a mutable file"),
    "deletes .git": ("shutil.rmtree('.git')", "deleted .git"),
    "commits": ("run('git', 'commit', '--all', '--message', 'mine')", "committed"),
    "switches the branch": (
        "run('git', 'checkout', '-b', 'm'); run('git', 'commit', '-am', 'm')",
        "switched the branch",
    ),
    "turns .git into a link": ("shutil.rmtree('.git'); os.symlink('/etc', '.git')", "deleted .git"),
    "starts another .git": (
        "shutil.rmtree('.git'); run('git', 'init', '--initial-branch', 'x')",
        "switched the branch",
    ),
    "leaves a daemon": (
        "subprocess.Popen(['sleep', '600'], start_new_session=True, stdout=subprocess.DEVNULL)",
        "left `sleep` running, which was killed",
    ),
    "prints ten megabytes": (
        "for _ in range(10): print(('y' * 1023 + '\\n') * 1024, flush=True)",
        "printed 10 MiB, of which the last 1 MiB is kept",
    ),
    "names a file in no encoding": (
        "open(b'\\xff.py', 'w').close()",
        "created ?.py, which is not a mutable file",
    ),
    "fails at its end": ("sys.exit(3)", ""),
    "asks": ("sys.stdin.read()", ""),
}


def unheard(_: str, **__: Any) -> None:
    """Ignore journal events."""


def agent(
    folder: Path,
    script: str,
    box: Sandbox = UNCONFINED,
    time_limit: float = 60,
    announce: Callable[..., None] = unheard,
) -> CommandProposer:
    path = folder / "agent.py"
    path.write_text(BEGIN + script)
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(path))} {{prompt_file}}"
    return CommandProposer(
        command, time_limit=time_limit, sandbox=box, briefing=lambda _: "All that is known.", announce=announce
    )


def counting(counter: Path) -> str:
    """Return a script for an agent that records each start outside its copy."""
    return f"with open({str(counter)!r}, 'a') as file: file.write('x')\n"
