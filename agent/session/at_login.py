"""Continue a session at the next login after a reboot: a launchd agent on macOS, a systemd user unit on Linux.

The file runs the command that resumes the session, once per login. It holds no key. Neither was run on a real Mac.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import plistlib
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import MachineFault, PreconditionError, UsageError
from agent.journal.paths import home_folder, journal_path
from agent.proposers.choose import ProposerConfig
from agent.proposers.model.servers import key_variable_of, parse_model
from agent.room.variables import of_agents, of_setup
from agent.session.signals import IMMEDIATE
from agent.system.files import write_whole
from agent.system.masking import SECRET
from agent.system.shielded import run_shielded

PLACES = {"darwin": "Library/LaunchAgents/{}.plist", "linux": ".config/systemd/user/{}.service"}
ENVIRONMENT_D = ".config/environment.d"  # what systemd passes to its user units: environment.d(5)
SYSTEMCTL_SECONDS = 30
# What belongs to one login or one terminal.
PASSING = re.compile(r"XDG_(?!\w+_HOME$)\w+|TERM|COLUMNS|LINES|UV_RUN_RECURSION_DEPTH")
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PASSWORD = re.compile(r"://[^/\s]*@")
# Property lists cannot hold them, systemd rejects them in variables, and bytes that are not UTF-8 fit in neither.
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
NO_PROGRAM = re.compile(r"['\"\\]")  # what systemd accepts in arguments, but not in the path of a program


@dataclass(frozen=True)
class Starter:
    """A file that starts a session at login, with its contents."""

    path: Path
    text: str

    def plan(self) -> list[str]:
        return [f"would write {self.path} until the session ends:", *(f"  {line}" for line in self.text.splitlines())]

    def install(self) -> list[str]:
        """Write the file, readable by the user only, and enable it.

        Returns:
            What was written, the first time with its text, when it takes effect, and how to remove it.
        """
        # The file at login writes its output to a log, where the text need not be again.
        shown = [] if self.path.exists() else [line for line in self.text.splitlines() if line]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, self.text, mode=0o600)
        for link in _links(self.path):
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(self.path)  # as `systemctl --user enable` does
        _reload(self.path)
        files = shlex.join(str(each) for each in (self.path, *_links(self.path)))
        when = "systemd starts it at login, or at boot after `loginctl enable-linger`"
        return [
            f"after a reboot this session continues at your next login: wrote {self.path}",
            *shown,
            f"{when if _links(self.path) else 'launchd starts it at login'}; it is removed when the session ends, or "
            f"with `rm {files}`",
        ]

    def after(self, code: int) -> str:
        """Remove the file if the session has ended for good, and return what was done.

        It stays after a SIGTERM and a closed terminal, which may come from a shutdown, and after an error. A GPU that
        keeps failing may work again after a restart. Whatever the file has started keeps running.

        Args:
            code: exit code of the session.
        """
        if code in (*IMMEDIATE.values(), MachineFault.exit_code):
            return f"this session continues at your next login: {self.path} stays"
        return _remove(self.path)


def forget(folder: Path, tag: str) -> list[str]:
    """Remove the file of a session if there is one, and return what was done."""
    if not installed(folder, tag):
        return []
    return [_remove(file_of(folder, tag))]


def file_of(folder: Path, tag: str, platform: str = sys.platform) -> Path:
    """Return the path of the file that starts a session at login. Each workspace and tag has its own.

    Raises:
        UsageError: the system has neither launchd nor systemd.
    """
    if platform not in PLACES:
        raise UsageError(f"--at-login needs launchd or systemd, which {platform} lacks")
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{folder.name[:40]}-{tag[:40]}")
    unique = hashlib.sha256(os.fsencode(folder) + b"\0" + tag.encode()).hexdigest()[:12]
    return home_folder() / PLACES[platform].format(f"autoresearch-{readable}-{unique}")


def installed(folder: Path, tag: str, platform: str = sys.platform) -> bool:
    """Return whether a session continues at login."""
    with contextlib.suppress(PreconditionError, UsageError):
        return file_of(folder, tag, platform).exists()
    return False


def starter(folder: Path, tag: str, flags: Mapping[str, Any], platform: str = sys.platform) -> Starter:
    """Return the file that resumes a session.

    Args:
        flags: the flags of `run` by their names there.

    Raises:
        UsageError: the system has neither launchd nor systemd, or the file cannot hold the folder or a flag.
        PreconditionError: systemd does not answer, so it would start nothing.
    """
    # -P: a folder `agent` in the folder where the command starts is not imported in place of the program.
    command = [sys.executable, "-P", "-m", "agent", "-C", str(folder), "run", *_arguments(flags)]
    log = str(journal_path(folder, tag).with_name("at-login.log"))
    here = str(Path.cwd())  # relative paths in flags and variables start there
    bad = next((word for word in (*command, log, here) if UNWRITABLE.search(word)), None)
    if bad is not None:
        raise UsageError(f"--at-login cannot write {bad!r}: it has control characters or is not UTF-8")
    if platform == "linux" and NO_PROGRAM.search(sys.executable):
        raise UsageError(f"--at-login cannot start {sys.executable}: systemd allows no quotes and backslashes there")
    path, kept = file_of(folder, tag, platform), variables(os.environ)
    # A session that was started by the file need not ask again.
    failed = None if path.exists() else _reload(path)
    if failed is not None:
        raise PreconditionError(
            f"systemd does not answer, so nothing would start at login: {failed}",
            hint="log in directly, not with su or sudo, or start without --at-login",
        )
    if platform == "darwin":
        return Starter(path, _plist(path.stem, command, kept, log, here))
    return Starter(path, _unit(f"autoresearch in {folder}, session {tag}", command, kept, log, here))


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the file sets, without secrets.

    These are the program's own, and those that runs, set-up commands and agents see.
    """
    own = {name: value for name, value in environment.items() if name.startswith("AUTORESEARCH_")}
    # Rooms are in TMPDIR, and runs get one of their own.
    found = {**own, **of_setup(environment), **of_agents(environment), "TMPDIR": environment.get("TMPDIR", "")}
    return {
        name: value
        for name, value in sorted(found.items())
        if value
        and NAME.fullmatch(name)
        and not (PASSING.fullmatch(name) or SECRET.search(name) or PASSWORD.search(value) or UNWRITABLE.search(value))
    }


def require_keys(wanted: ProposerConfig, platform: str = sys.platform) -> None:
    """Check that the model of a session has its key at login, too.

    Raises:
        PreconditionError: the key is only in the environment of this program.
    """
    if wanted.model is None:
        return
    model = parse_model(wanted.model)
    name = key_variable_of(model.scheme)
    if not model.key or (platform == "linux" and name in _of_systemd()):
        return
    place = f"put `{name}=...` into ~/{ENVIRONMENT_D}/autoresearch.conf, which systemd reads at login, or "
    raise PreconditionError(
        f"--at-login writes no key to a file, and {name} is only in the environment of this shell",
        hint=f"{place if platform == 'linux' else ''}start without --at-login, and resume by hand after a reboot",
    )


def keys_of_agents(wanted: ProposerConfig) -> list[str]:
    """Return the names of the keys that an agent sees now and may miss at login."""
    if wanted.agent is None and wanted.agent_cmd is None:
        return []
    return sorted(name for name in {*of_agents(os.environ)} - _of_systemd() if SECRET.search(name))


def _arguments(flags: Mapping[str, Any]) -> list[str]:
    """Return flags as arguments: `--name=value`, and `--name` or `--no-name` for a bool. None is left out."""
    said = []
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            said.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            said += [f"--{flag}={each}" for each in (value if isinstance(value, tuple) else (value,))]
    return said


def _plist(name: str, command: list[str], kept: Mapping[str, str], log: str, here: str) -> str:
    """Return a property list, see launchd.plist(5).

    Without KeepAlive, launchd starts the command once per login. Any type but Interactive would throttle the processor.
    """
    return plistlib.dumps(
        {
            "Label": name,
            "ProgramArguments": command,
            "EnvironmentVariables": dict(kept),
            "WorkingDirectory": here,
            "RunAtLoad": True,
            "ProcessType": "Interactive",
            "Umask": 0o077,
            "StandardOutPath": log,
            "StandardErrorPath": log,
        },
        sort_keys=False,
    ).decode()


def _unit(title: str, command: list[str], kept: Mapping[str, str], log: str, here: str) -> str:
    """Return a unit, see systemd.service(5).

    `:` before the program turns the expansion of `$` off, and `-` lets a folder be missing. By default, systemd would
    end the session when the kernel kills a run that is out of memory.
    """
    program, *arguments = command
    return "\n".join(
        [
            "[Unit]",
            f"Description={_escaped(title)}",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={' '.join(_quoted(word) for word in (f':{program}', *arguments))}",
            *(f"Environment={_quoted(f'{name}={value}')}" for name, value in kept.items()),
            f"WorkingDirectory=-{_escaped(here)}/",  # `/`: a last backslash would join the next line
            "Restart=no",
            "OOMPolicy=continue",
            "KillMode=mixed",  # the program ends its runs itself, so that none looks like a crash
            "UMask=0077",
            f"StandardOutput=append:{_escaped(log)}",
            f"StandardError=append:{_escaped(log)}",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def _quoted(word: str) -> str:
    """Quote a word for systemd, see "Quoting" in systemd.syntax(7)."""
    return '"' + _escaped(word).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """Return text without specifiers, see systemd.unit(5)."""
    return text.replace("%", "%%")


def _links(path: Path) -> list[Path]:
    return [path.parent / "default.target.wants" / path.name] if path.suffix == ".service" else []


def _of_systemd() -> set[str]:
    """Return the names of the variables that systemd sets for the user's units."""
    found = set()
    for path in (home_folder() / ENVIRONMENT_D).glob("*.conf"):
        with contextlib.suppress(OSError):
            found |= set(re.findall(r"^\s*(\w+)=", path.read_text(errors="replace"), re.MULTILINE))
    return found


def _remove(path: Path) -> str:
    for each in (*_links(path), path):
        each.unlink(missing_ok=True)
    _reload(path)
    return f"this session no longer continues at login: removed {path}"


def _reload(path: Path) -> str | None:
    """Let systemd read its units again; launchd reads its files at login. Return the error; None if it succeeded."""
    if not _links(path):
        return None
    try:
        done = run_shielded(["systemctl", "--user", "daemon-reload"], timeout=SYSTEMCTL_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    words = " ".join(done.stderr.decode(errors="replace").split())
    return None if done.returncode == 0 else words or f"exit code {done.returncode}"
