"""A session that continues at the next login: the file for launchd or systemd, and when it stays.

`systemctl` is a stand-in on PATH, and HOME a folder of the test. Neither launchd nor systemd started a session here.
"""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from agent.errors import MachineFault, PreconditionError, UsageError
from agent.journal.lock import holder
from agent.journal.paths import state_folder
from agent.proposers.choose import ProposerConfig
from agent.session import at_login, faults
from agent.session.at_login import Starter, file_of, keys_of_agents, require_keys, starter, variables
from agent.system.background import READY
from tests.common.forked import Forked
from tests.common.machine_faults import Plan, faulty, log_of
from tests.common.processes import start, wait_for
from tests.common.sessions import assert_consistent, rows
from tests.common.workspaces import Cli, commit_all

ODD = "a b%h $HOME ${X} & \"c\" 'd' \\ ü 雪"  # what shells, systemd, XML and people treat specially
FLAGS = {
    "tag": "t",
    "at_login": True,
    "prune": False,
    "seed": 7,
    "target": -1.5,
    "patience": None,
    "notify": (ODD, "-x"),
}
WORDS = ["run", "--tag=t", "--at-login", "--no-prune", "--seed=7", "--target=-1.5", f"--notify={ODD}", "--notify=-x"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a home folder, and a systemctl that notes how it is called."""
    folder, tools = tmp_path / "home", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/systemctl.log\n')
    (tools / "systemctl").chmod(0o755)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    return folder


def unquoted(text: str) -> list[str]:
    """Read words as in "Quoting" of systemd.syntax(7) and "Specifiers" of systemd.unit(5)."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in words]


def settings(text: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def by_hand(path: Path) -> subprocess.CompletedProcess[str]:
    """Run what systemd would run at login: the command of the unit, with its variables and those of every unit."""
    (line,) = settings(path.read_text(), "ExecStart")
    program, *arguments = unquoted(line)
    assert program.startswith(":/")
    given = [unquoted(each)[0].partition("=") for each in settings(path.read_text(), "Environment")]
    env = {"HOME": os.environ["HOME"], **{name: value for name, _, value in given}}
    command = [program.removeprefix(":"), *arguments]
    (place,) = settings(path.read_text(), "WorkingDirectory")
    cwd = place.removeprefix("-").replace("%%", "%")
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.mark.quick
def test_property_list_holds_command_and_variables(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", f"/{ODD}")
    made = starter(tmp_path / ODD, "t", FLAGS, "darwin")
    assert made.path.parent == home / "Library/LaunchAgents"
    found = plistlib.loads(made.text.encode())
    assert found["Label"] == made.path.stem
    assert found["ProgramArguments"] == [sys.executable, "-P", "-m", "agent", "-C", str(tmp_path / ODD), *WORDS]
    assert found["EnvironmentVariables"]["AUTORESEARCH_CACHE"] == f"/{ODD}"
    assert found["EnvironmentVariables"]["PATH"] == os.environ["PATH"]
    assert found["WorkingDirectory"] == str(Path.cwd())
    assert found["RunAtLoad"] is True
    assert found["ProcessType"] == "Interactive"
    assert "KeepAlive" not in found  # a start that fails is not repeated
    assert Path(found["StandardErrorPath"]).parent == tmp_path / ODD / ".autoresearch/sessions/t"


@pytest.mark.quick
def test_unit_holds_command_and_variables(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", f"/{ODD}")
    made = starter(tmp_path / ODD, "t", FLAGS, "linux")
    assert made.path.parent == home / ".config/systemd/user"
    (command,) = settings(made.text, "ExecStart")
    assert unquoted(command) == [f":{sys.executable}", "-P", "-m", "agent", "-C", str(tmp_path / ODD), *WORDS]
    given = [unquoted(each) for each in settings(made.text, "Environment")]
    assert [f"AUTORESEARCH_CACHE=/{ODD}"] in given
    assert [f"PATH={os.environ['PATH']}"] in given
    assert settings(made.text, "Restart") == ["no"]
    assert settings(made.text, "OOMPolicy") == ["continue"]
    assert settings(made.text, "KillMode") == ["mixed"]
    assert settings(made.text, "UMask") == ["0077"]
    assert settings(made.text, "WantedBy") == ["default.target"]
    log = tmp_path / ODD / ".autoresearch/sessions/t/at-login.log"
    assert settings(made.text, "StandardError") == [f"append:{log}".replace("%", "%%")]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.usefixtures("home")
def test_systemd_accepts_the_unit_and_finds_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "p%h $HOME ${X} & ü 雪" / "python"
    program.parent.mkdir()
    program.symlink_to("/bin/true")
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / ODD).mkdir()
    monkeypatch.chdir(tmp_path / ODD)
    made = starter(tmp_path / ODD, "t", FLAGS, "linux")
    unit = tmp_path / made.path.name

    def verified(text: str) -> str:
        unit.write_text(text)
        command = ["systemd-analyze", "--user", "verify", str(unit)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    assert verified(made.text) == ""
    assert "No such file" in verified(made.text.replace("/python", "/nothing"))
    monkeypatch.setattr(sys, "executable", "/it's/python")
    with pytest.raises(UsageError, match="systemd allows no quotes"):
        starter(tmp_path, "t", FLAGS, "linux")


@pytest.mark.quick
def test_file_holds_no_secret() -> None:
    harmless = {"PATH": "/opt/python@3.12/bin:/bin", "LANG": "de_DE.UTF-8", "AUTORESEARCH_CACHE": "/c", "MLX_X": "1"}
    known = {
        **harmless,
        "OLLAMA_BASE_URL": "http://h:1/v1",
        "UV_CACHE_DIR": "/u",
        "XDG_CACHE_HOME": "/x",
        "TMPDIR": "/t",
    }
    secret = {
        "OPENAI_API_KEY": "k",
        "AUTORESEARCH_MODEL_KEY": "k",
        "AUTORESEARCH_KEEP_ENV": "WANDB_API_KEY,MINE",
        "WANDB_API_KEY": "k",
        "HF_TOKEN": "k",
        "AWS_PROFILE": "p",
        "UV_INDEX_URL": "https://me:k@host/simple",
    }
    passing = {"XDG_SESSION_ID": "3", "XDG_RUNTIME_DIR": "/run/user/1", "TERM": "xterm", "UV_BELL": "\a"}
    # MINE passes to runs because the user names it, so it passes to the file as well.
    kept = {**known, "AUTORESEARCH_KEEP_ENV": "WANDB_API_KEY,MINE", "MINE": "m"}
    assert variables({**known, **secret, **passing, "MINE": "m", "OTHER": "o"}) == kept


@pytest.mark.quick
@pytest.mark.usefixtures("home")
def test_each_session_has_a_file_of_its_own(tmp_path: Path) -> None:
    folders = [tmp_path / "w", tmp_path / "other" / "w", tmp_path / ODD, tmp_path / ("long" * 60)]
    names = [file_of(folder, tag, "linux").name for folder in folders for tag in ("t", "t_1", "t-1", "x" * 200)]
    assert len({*names}) == len(names)
    assert all(re.fullmatch(r"autoresearch-[A-Za-z0-9.-]{1,120}\.service", name) for name in names)


@pytest.mark.quick
@pytest.mark.usefixtures("home")
def test_what_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    for platform in ("darwin", "linux"):
        for bad in (tmp_path / "a\nb", Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))):
            with pytest.raises(UsageError, match="control characters or is not UTF-8"):
                starter(bad, "t", FLAGS, platform)
    with pytest.raises(UsageError, match="needs launchd or systemd, which plan9 lacks"):
        starter(tmp_path, "t", FLAGS, "plan9")
    assert not at_login.installed(tmp_path, "t", "plan9")


@pytest.mark.quick
def test_session_whose_key_would_be_missing_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    require_keys(ProposerConfig())
    require_keys(ProposerConfig(model="ollama:m"))
    with pytest.raises(PreconditionError, match="OPENAI_API_KEY is only in the environment of this shell"):
        require_keys(ProposerConfig(model="openai:m"), "linux")
    require_keys(ProposerConfig(model="http://h/v1 m"), "linux")
    monkeypatch.setenv("AUTORESEARCH_MODEL_KEY", "k")
    with pytest.raises(PreconditionError, match="AUTORESEARCH_MODEL_KEY"):
        require_keys(ProposerConfig(model="http://h/v1 m"), "linux")
    place = home / ".config/environment.d"
    place.mkdir(parents=True)
    (place / "keys.conf").write_text("# mine\nOPENAI_API_KEY=k\n")
    require_keys(ProposerConfig(model="openai:m"), "linux")
    with pytest.raises(PreconditionError):
        require_keys(ProposerConfig(model="openai:m"), "darwin")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    assert keys_of_agents(ProposerConfig()) == []
    assert "ANTHROPIC_API_KEY" in keys_of_agents(ProposerConfig(agent="claude"))


@pytest.mark.quick
@pytest.mark.usefixtures("home")
def test_launchd_file_is_written_and_removed_with_no_tool(tmp_path: Path) -> None:
    made = starter(tmp_path, "t", FLAGS, "darwin")
    said = made.install()
    assert made.path.read_text() == made.text
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert str(made.path) in said[0]
    assert f"rm {made.path}" in said[-1]
    assert {line for line in made.text.splitlines() if line} <= {*said}
    assert "stays" in made.after(143)
    assert "stays" in made.after(129)
    assert "stays" in made.after(MachineFault.exit_code)
    assert made.path.exists()
    made.after(0)
    assert not made.path.exists()
    assert not (tmp_path / "systemctl.log").exists()


def test_finished_session_shows_its_unit_and_removes_it(quick: Path, home: Path, cli: Cli, tmp_path: Path) -> None:
    path = file_of(quick, "t")
    planned = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--max-hours", "8", "--at-login", "--dry-run")
    assert f"would write {path}" in planned.stdout
    assert re.search(r'"--max-experiments=1" "--until=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"', planned.stdout)
    assert not path.exists()
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--at-login")
    assert done.returncode == 0, done.stderr
    assert f"wrote {path}" in done.stderr
    assert "WantedBy=default.target" in done.stderr
    assert f"removed {path}" in done.stderr
    assert not list(home.rglob("autoresearch*"))
    assert {*(tmp_path / "systemctl.log").read_text().splitlines()} == {"--user daemon-reload"}
    assert_consistent(quick)


@pytest.mark.usefixtures("home")
def test_killed_session_continues_by_the_command_of_its_unit(quick: Path) -> None:
    path = file_of(quick, "t")
    loop = start(quick, "--max-experiments", "12", "--seed", "5", "--at-login")
    wait_for(quick, "started", 1)
    again = by_hand(path)
    assert again.returncode == 3  # as one loop is already running
    loop.kill()
    loop.wait(30)
    assert path.exists()
    link = path.parent / "default.target.wants" / path.name
    assert link.resolve() == path
    done = by_hand(path)
    assert done.returncode == 0, done.stderr
    assert "is now" not in done.stderr
    assert len(rows(quick)) == 13
    assert f"removed {path}" in done.stderr
    assert not path.exists()
    assert not link.is_symlink()
    assert_consistent(quick)


@pytest.mark.usefixtures("home")
def test_login_after_the_end_ends_the_session_quietly(quick: Path, cli: Cli) -> None:
    path = file_of(quick, "t")
    loop = start(quick, "--until", "8h", "--at-login")
    wait_for(quick, "started", 1)
    loop.kill()
    loop.wait(30)
    path.write_text(re.sub(r"--until=[^\"]*", "--until=2020-01-01T07:00:00+00:00", path.read_text()))
    done = by_hand(path)
    assert done.returncode == 0, done.stderr
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(datetime(2020, 1, 1, 7, tzinfo=UTC).timestamp()))
    assert f"it is past {day}" in done.stdout
    assert not path.exists()
    refused = cli(quick, "run", "--tag", "t", "--until", "2020-01-01T07:00")
    assert refused.returncode == 2


@pytest.mark.usefixtures("home")
def test_unit_finds_relative_paths_of_flags_and_variables(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the folder where the session was started, which has characters that systemd treats specially."""
    place = tmp_path / (ODD + " \\")
    place.mkdir()
    (place / "notify.sh").write_text('#!/bin/sh\necho "$AUTORESEARCH_CACHE" >> told\n')
    (place / "notify.sh").chmod(0o755)
    monkeypatch.setenv("AUTORESEARCH_CACHE", "cache")
    told, flags = ["--notify", "./notify.sh {text}"], ["-C", str(quick), "run", "--tag", "t", "--at-login"]
    loop = Forked(place, [*flags, "--max-experiments", "3", *told], os.environ)
    wait_for(quick, "started", 1)
    loop.kill()
    loop.wait(30)
    (place / "told").unlink(missing_ok=True)
    done = by_hand(file_of(quick, "t"))
    assert done.returncode == 0, done.stderr
    assert {*(place / "told").read_text().splitlines()} == {str(place / "cache")}
    assert "command not found" not in done.stderr


@pytest.mark.usefixtures("home")
def test_unit_of_a_session_in_the_background_continues_it(quick: Path, program: Cli) -> None:
    """The number of a descriptor means another file at login, such as the journal."""
    done = program(quick, "run", "--tag", "t", "--max-experiments", "300", "--at-login", "--detach")
    assert done.returncode == 0, done.stderr
    found = holder(state_folder(quick))
    assert found is not None
    loop, path = psutil.Process(found.pid), file_of(quick, "t")
    wait_for(quick, "started", 1)
    loop.kill()
    psutil.wait_procs([loop], timeout=30)
    names = [unquoted(each)[0].partition("=")[0] for each in settings(path.read_text(), "Environment")]
    assert READY not in names
    path.write_text(path.read_text().replace("--max-experiments=300", "--max-experiments=1"))
    again = by_hand(path)
    assert again.returncode == 0, again.stderr
    assert_consistent(quick)


@pytest.mark.parametrize(("number", "stays"), [(signal.SIGTERM, True), (signal.SIGHUP, True), (signal.SIGINT, False)])
@pytest.mark.usefixtures("home")
def test_shutdown_keeps_the_unit_and_ctrl_c_removes_it(
    quick: Path, cli: Cli, number: signal.Signals, stays: bool
) -> None:
    loop = start(quick, "--max-experiments", "500", "--at-login")
    wait_for(quick, "started", 1)
    loop.send_signal(number)
    _, said = loop.communicate(60)
    assert loop.returncode == 128 + number
    assert file_of(quick, "t").exists() is stays
    if stays:
        assert f"{file_of(quick, 't')} stays" in said
        # A start by hand finds the unit, and removes it at its end.
        done = cli(quick, "run", "--tag", "t", "--max-experiments", "0")
        assert f"removed {file_of(quick, 't')}" in done.stderr
        assert not file_of(quick, "t").exists()


@pytest.mark.usefixtures("home")
def test_gpu_that_keeps_failing_keeps_the_unit_which_continues_the_session(
    quick: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE", 0.01)
    plan, path = Plan(tmp_path / "outlives"), file_of(quick, "t")
    (quick / "train.py").write_text(faulty(plan))
    commit_all(quick, "fails as planned")
    plan.fail(always=log_of("machine/metal_innocent_victim"))
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--at-login", "--sandbox", "off")
    assert done.returncode == MachineFault.exit_code
    assert path.exists()
    plan.fail()
    done = by_hand(path)
    assert done.returncode == 0, done.stderr
    assert len(rows(quick)) == 2
    assert not path.exists()


@pytest.mark.usefixtures("home")
def test_unit_is_named_by_doctor_and_removed_on_request(quick: Path, cli: Cli) -> None:
    cli(quick, "run", "--tag", "t", "--max-experiments", "1")
    Starter(file_of(quick, "t"), "").install()
    assert f"because of {file_of(quick, 't')}" in cli(quick, "doctor").stdout
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--no-at-login")
    assert f"removed {file_of(quick, 't')}" in done.stderr
    assert "at login" not in cli(quick, "doctor").stdout


def test_systemd_that_does_not_answer_is_reported_before_anything_is_written(
    quick: Path, home: Path, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "tools/systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    done = cli(quick, "run", "--tag", "t", "--max-experiments", "1", "--at-login")
    assert done.returncode == 3
    assert "systemd does not answer, so nothing would start at login: Failed to connect to bus" in done.stderr
    assert not (home / ".config").exists()
