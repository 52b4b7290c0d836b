"""Real commands that hang, fork, ignore signals or leave their process group."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agent.errors import AutoresearchError, Crashed, ExperimentError, Interrupted, Pruned, Suspended
from agent.execution import kill, process
from agent.execution.conditions import clock
from agent.execution.kill import MARK, Process, end_orphan, start_of
from agent.execution.measure import Runner, measure
from agent.execution.process import Command, Ended, Observer, run_command
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from tests.common.processes import gone
from tests.common.workspaces import commit_all


def shell(command: str) -> list[str]:
    return ["/bin/sh", "-c", command]


def run(command: str, folder: Path, limit: float = 30, tick: Callable[[float], None] = lambda _: None) -> Ended:
    log = folder / "run.log"
    return run_command(Command(shell(command), cwd=folder, env=os.environ, log=log, limit=limit), Observer(tick=tick))


def test_output_of_both_streams_and_the_exit_code(tmp_path: Path) -> None:
    ended = run("echo out; echo err >&2; exit 7", tmp_path)
    assert ended.returncode == 7
    assert (tmp_path / "run.log").read_text() == "out\nerr\n"


def test_standard_input_is_empty(tmp_path: Path) -> None:
    assert run("cat", tmp_path).returncode == 0


def test_limit_kills_process_tree(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "away = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print(os.getpid(), child.pid, away.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    ended = run(f"{sys.executable} forks.py", tmp_path, limit=2)
    assert ended.returncode is None
    pids = [int(pid) for pid in (tmp_path / "run.log").read_text().split()]
    assert len(pids) == 3
    assert all(gone(pid) for pid in pids)


def test_command_ignoring_term_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "TERM_GRACE_SECONDS", 0.5)
    (tmp_path / "stubborn.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    assert run(f"exec {sys.executable} stubborn.py", tmp_path, limit=1.5).returncode is None
    assert gone(int((tmp_path / "run.log").read_text()))


def test_restarted_children_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "TERM_GRACE_SECONDS", 1.0)
    worker = "sh -c 'echo $$ >> pids; exec sleep 60'"
    assert run(f"echo $$ > pids; trap : TERM; while :; do {worker}; done", tmp_path, limit=1).returncode is None
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) >= 3, "it was to answer TERM with a new worker"
    assert all(gone(pid) for pid in pids)


def test_daemon_of_finished_command_is_killed(tmp_path: Path) -> None:
    (tmp_path / "daemon.py").write_text(
        "import os, subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True,\n"
        "    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(left.pid, flush=True)\n"
    )
    ended = run(f"{sys.executable} daemon.py", tmp_path)
    assert ended.returncode == 0
    assert len(ended.left) == 1
    assert ended.left[0].startswith("python")
    assert gone(int((tmp_path / "run.log").read_text()))


def test_only_what_was_left_running_is_named(tmp_path: Path) -> None:
    assert run("sleep 600 & sleep 600 & sleep 0.1 & true", tmp_path).left == ("sleep", "sleep")
    assert run("true", tmp_path).left == ()
    assert run("sleep 600", tmp_path, limit=0.5).left == ()


def test_exception_in_tick_kills_command(tmp_path: Path) -> None:
    def tick(_: float) -> None:
        raise Interrupted("enough", 130)

    with pytest.raises(Interrupted):
        run("echo $$; sleep 600", tmp_path, tick=tick)
    assert gone(int((tmp_path / "run.log").read_text()))


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not gone(pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert gone(pid)


def test_run_ends_when_loop_dies(tmp_path: Path) -> None:
    read, write = os.pipe()
    loop = os.fork()
    if loop == 0:

        def tick(_: float) -> None:
            os.write(write, (tmp_path / "log").read_bytes())
            os.kill(os.getpid(), signal.SIGKILL)

        (tmp_path / "train.py").write_text(
            "import os, subprocess, sys, time\n"
            "away = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
            "print(os.getpid(), away.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        command = f"{sys.executable} train.py"
        log = tmp_path / "log"
        run_command(Command(shell(command), tmp_path, os.environ, log, 60), Observer(tick=tick))
    os.waitpid(loop, 0)
    pids = [int(pid) for pid in os.read(read, 100).split()]
    assert len(pids) == 2
    for pid in pids:
        wait_until_gone(pid)


def test_orphan_is_identified_by_pid_and_birth() -> None:
    left = subprocess.Popen(["sleep", "600"], start_new_session=True, env={**os.environ, MARK: "m"})
    born = psutil.Process(left.pid).create_time()
    while MARK not in psutil.Process(left.pid).environ():  # a moment after its start it has none yet
        assert left.poll() is None
    assert not end_orphan(Process(left.pid, born - 100))
    assert left.poll() is None
    assert end_orphan(Process(left.pid, born))
    assert gone(left.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems record the start by the wall clock")
def test_orphan_is_identified_whatever_the_clock_was_set_to() -> None:
    left = subprocess.Popen(["sleep", "600"], start_new_session=True, env={**os.environ, MARK: "m"})
    born, start = psutil.Process(left.pid).create_time(), start_of(left.pid)
    while MARK not in psutil.Process(left.pid).environ():  # a moment after its start it has none yet
        assert left.poll() is None
    boot, ticks = start.split("/")
    for other in (f"{boot}/{int(ticks) - 500}", f"another-boot/{ticks}"):
        assert not end_orphan(Process(left.pid, born, other)), "the clock was set so that another run seems to be it"
    assert left.poll() is None
    assert end_orphan(Process(left.pid, born + 3600, start))
    assert gone(left.pid)


def test_endless_log_ends_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LARGEST_LOG", 2**20)
    ended = run("yes", tmp_path)
    assert ended.returncode is None
    assert ended.stopped is not None
    assert "log grew beyond 1 MiB" in ended.stopped


def test_log_that_is_made_endless_at_the_end_is_cut(tmp_path: Path) -> None:
    ended = run(f"{sys.executable} -c 'import os; os.ftruncate(1, 2**40)'", tmp_path)
    assert ended.returncode == 0
    assert ended.stopped is not None
    assert "log grew beyond 64 MiB" in ended.stopped
    assert (tmp_path / "run.log").stat().st_size == process.LARGEST_LOG


def test_log_that_a_command_closes_to_readers_is_opened_again(tmp_path: Path) -> None:
    for _ in range(2):  # also in place of one that was left so
        ended = run(f"echo out; {sys.executable} -c 'import os; os.fchmod(1, 0)'", tmp_path)
        assert ended.returncode == 0
        assert (tmp_path / "run.log").stat().st_mode & 0o600 == 0o600
        assert (tmp_path / "run.log").read_text() == "out\n"
        (tmp_path / "run.log").chmod(0)


def test_log_of_a_killed_run_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("kept")
    (tmp_path / "run.log").symlink_to(other)
    run("echo out", tmp_path)
    assert other.read_text() == "kept"
    assert (tmp_path / "run.log").read_text() == "out\n"


def test_sleep_shows_as_a_gap_between_the_clocks(tmp_path: Path) -> None:
    clock = iter([1000.0, 1300.0])
    log = tmp_path / "log"
    ended = run_command(Command(["true"], tmp_path, {}, log, 9), wall=lambda: next(clock))
    assert 290 < ended.asleep <= 300
    assert ended.seconds < 60
    assert run("true", tmp_path).asleep == 0


def test_command_that_gives_way_is_no_disturbance(tmp_path: Path) -> None:
    """It has the lowest priority, also in its children, and its work counts as this program's own."""
    spins = "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    child = "import os, time\nprint(os.nice(0), flush=True)\nwhile time.process_time() < 1: pass\ntime.sleep(600)"
    log, before = tmp_path / "log", clock()

    def tick(_: float) -> None:
        now = clock()
        if now.own - before.own > 0.5:
            raise Interrupted("seen", 0)

    command = Command([sys.executable, "-c", spins, child], tmp_path, os.environ, log, 60, gives_way=True)
    with pytest.raises(Interrupted, match="seen"):
        run_command(command, Observer(tick=tick))
    assert log.read_text() == "19\n"
    assert process.seconds_given_way() == 0


@contextlib.contextmanager
def frozen_disk(folder: Path) -> Iterator[Path]:
    """Mount a small disk and freeze it: whoever writes there cannot be killed until the end of the block."""
    image, place = str(folder / "image"), str(folder / "disk")
    Path(place).mkdir()
    Path(image).write_bytes(bytes(8 * 2**20))
    for command in (["mkfs.ext4", "-qF", image], ["mount", "-o", "loop", image, place], ["fsfreeze", "-f", place]):
        if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True, check=False).returncode:
            subprocess.run(["umount", place], capture_output=True, check=False)
            pytest.skip("only root on Linux may freeze a disk: run this test as root, outside of a container")
    try:
        yield Path(place)
    finally:
        subprocess.run(["fsfreeze", "-u", place], check=True)
        subprocess.run(["umount", "--lazy", place], check=True)


def test_run_that_cannot_be_killed_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DYING_SECONDS", 0.5)
    monkeypatch.setattr(kill, "TERM_GRACE_SECONDS", 0.2)
    with frozen_disk(tmp_path) as disk, pytest.raises(AutoresearchError, match="the run cannot be killed") as found:
        run(f"exec > {disk}/written; echo never", tmp_path, limit=1)
    assert found.value.hint.startswith("restart the machine")


@pytest.mark.parametrize(
    "error", [Crashed("the loss became nan"), Pruned("hopeless", 0.4, 1.5)], ids=["crash", "pruned"]
)
def test_run_given_up_after_a_suspend_says_nothing(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ExperimentError
) -> None:
    (quick / "train.py").write_text("import time\ntime.sleep(60)\n")
    commit_all(quick, "waits")
    rules, real, slept = load_protocol(quick), time.time, [0.0]
    runner = Runner(rules, Workspace(quick, rules), None)
    monkeypatch.setattr(time, "time", lambda: real() + sum(slept))
    monkeypatch.setattr(kill, "TERM_GRACE_SECONDS", 0.2)

    def give_up(_: float) -> None:
        raise error

    def sleep(_: float) -> None:
        slept.append(300.0)
        raise error

    found = measure(runner, runner.workspace.head, tmp_path / "run.log", Observer(tick=give_up))
    assert (found.metric, found.error) == (None, str(error))
    with pytest.raises(Suspended, match="slept for 300 s during the run"):
        measure(runner, runner.workspace.head, tmp_path / "run.log", Observer(tick=sleep))
