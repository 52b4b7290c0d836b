"""Checks of a candidate before it runs: only failures that it causes itself count."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.execution.measure import Runner
from agent.execution.preflight import why_not
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.room.room import untracked_files
from tests.common.machine_faults import log_of
from tests.common.workspaces import QUICK, git, quick_protocol

BROKEN = "import no_such_module\n" + QUICK


@contextmanager
def runner(folder: Path, command: str, said: list[str]) -> Iterator[Runner]:
    """Set up `folder` with that command and commit everything that .gitignore does not exclude."""
    execution = {**quick_protocol()["execution"], "command": command}
    (folder / "protocol.json").write_text(json.dumps(quick_protocol(execution=execution)))
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "for a test")
    workspace = Workspace(folder, load_protocol(folder))
    yield Runner(load_protocol(folder), workspace, None, untracked=untracked_files(workspace), say=said.append)


def against(runner: Runner, files: dict[str, str]) -> str | None:
    return why_not(runner, files, runner.workspace.head, lambda: None)


def test_preflight_uses_interpreter_of_workspace(quick: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=quick, check=True)
    (packages,) = (quick / ".venv").glob("lib/python*/site-packages")
    (packages / "only_here.py").touch()
    (quick / ".gitignore").write_text(".venv/\n")
    said: list[str] = []
    with runner(quick, ".venv/bin/python train.py", said) as found:
        assert against(found, {"train.py": "import only_here\n" + QUICK}) is None
        assert not found.imports
        assert "No module named 'no_such_module'" in (against(found, {"train.py": BROKEN}) or "")
    assert not said


def test_modules_are_found_as_in_a_run(quick: Path) -> None:
    (quick / "src").mkdir()
    (quick / "above.py").touch()
    (quick / "src" / "model.py").write_text("LAYERS = 2\n")
    (quick / "src" / "train.py").write_text("import model\n" + QUICK)
    with runner(quick, f"{sys.executable} src/train.py > run.log 2>&1", []) as found:
        assert against(found, {"src/train.py": "from model import LAYERS\n" + QUICK}) is None
        assert "cannot import name" in (against(found, {"src/train.py": "from model import MORE\n" + QUICK}) or "")
        outside = against(found, {"src/train.py": "import above\n" + QUICK})
        assert "No module named 'above'" in (outside or ""), "the folder that a run starts in is not on its path"


def test_fault_of_the_gpu_during_an_import_fails_no_candidate(quick: Path) -> None:
    fails = f"import sys\nsys.stderr.write({log_of('machine/cuda_no_device')!r})\nsys.exit(1)\n"
    said: list[str] = []
    with runner(quick, f"{sys.executable} train.py", said) as found:
        assert against(found, {"train.py": fails + QUICK}) is None
        assert not found.imports
    assert not said


def test_files_missing_in_copy_fail_no_candidate(quick: Path, tmp_path: Path) -> None:
    """Imports stop, with one note, until an incumbent can be imported."""
    count = tmp_path / "count"
    counting = f"with open({str(count)!r}, 'a') as file:\n    file.write('x')\n"
    (quick / "train.py").write_text(f"{counting}open('.git/HEAD')\n{QUICK}")
    said: list[str] = []
    with runner(quick, f"{sys.executable} train.py", said) as found:
        for rate in ("0.2", "0.3"):
            assert against(found, {"train.py": (quick / "train.py").read_text().replace("0.1", rate)}) is None
        assert "does not compile" in (against(found, {"train.py": "RATE = = 1"}) or "")
        assert count.read_text() == "xx"
        assert len(said) == 1
        assert "candidates are not imported" in said[0]
        assert ".git/HEAD" in said[0]
        (quick / "train.py").write_text(QUICK)
        git(quick, "commit", "--quiet", "-am", "without")
        assert "no_such_module" in (against(found, {"train.py": BROKEN}) or "")
        assert len(said) == 1


def test_byte_order_mark_is_valid_syntax(quick: Path) -> None:
    with runner(quick, f"{sys.executable} train.py", []) as found:
        assert against(found, {"train.py": "\ufeff" + QUICK}) is None
        assert "does not compile" in (against(found, {"train.py": "\ufeffRATE = = 1"}) or "")
