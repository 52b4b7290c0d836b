"""Define the headless command lines of known coding agents, and the folders of the user that each needs to write to.

Each command grants the least that the agent needs to edit files: no shell if it can do without, no network tools, no
commits, no questions. `agent.proposers.agent.command` fills in `{prompt_file}`, `{prompt}` and `{files}`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

from agent.journal.paths import home_folder

PRESETS = {
    "claude": (
        "claude -p --permission-mode acceptEdits --tools Read,Edit,Write,Glob,Grep --strict-mcp-config "
        "--no-session-persistence < {prompt_file}"
    ),
    "codex": (
        "codex exec --sandbox workspace-write -c sandbox_workspace_write.exclude_slash_tmp=true --skip-git-repo-check "
        "--ephemeral --color never - < {prompt_file}"
    ),
    "gemini": "gemini --approval-mode auto_edit --skip-trust < {prompt_file}",
    "opencode": (
        """OPENCODE_PERMISSION='{"*":"deny","read":"allow","edit":"allow","glob":"allow","grep":"allow"}' """
        "opencode run < {prompt_file}"
    ),
    "aider": (
        "aider --message-file {prompt_file} --yes-always --no-auto-commits --no-dirty-commits --no-gitignore "
        "--no-check-update --no-show-release-notes --no-analytics --no-suggest-shell-commands --no-detect-urls "
        "--no-auto-lint --no-pretty --no-stream --map-tokens 0 {files}"
    ),
    "mini": "MSWEA_CONFIGURED=true mini --yolo --exit-immediately --task {prompt}",
}
# These sandbox themselves to the folder they start in. Seatbelt does not nest, so they run without our sandbox.
CONFINE_THEMSELVES = frozenset({"codex"})
FOLDER_NAMES = {"mini": "mini-swe-agent"}

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PROGRAM = re.compile(r"[\w.+-]+")


def check_available(command: str) -> str | None:
    """Return why the command cannot be started, or None if no reason is known."""
    try:
        program = _program(command)
    except ValueError as error:
        return f"cannot parse the agent's command ({error}): {command}"
    # A command that begins with a shell keyword, or with a path in the agent's copy, can only be checked by running it.
    if program is None or _is_builtin(program) or ("/" in program and not program.startswith("/")):
        return None
    if shutil.which(program):
        return None
    return f"the agent {program} is not installed"


def how_to_start(command: str) -> str:
    """Return what the user can do about a command that `check_available` rejects."""
    try:
        _program(command)
    except ValueError:
        return "check the quotes in `--agent-cmd`"
    return "install it and start it once to sign in, or choose another with `--agent` or `--agent-cmd`"


def confines_itself(command: str) -> bool:
    """Return whether the command is a preset of an agent that sandboxes itself."""
    return any(command == PRESETS[name] for name in CONFINE_THEMSELVES)


def own_folders(command: str) -> list[Path]:
    """Return where the agent keeps its credentials, settings and caches: only existing paths that bear its name."""
    try:
        words = shlex.split(command)
        program = _program(command)
    except ValueError:
        return []
    names = {Path(word).name for word in words} & set(PRESETS)
    # Not uv: its cache is linked into the environments of other projects.
    if program is not None and _PROGRAM.fullmatch(Path(program).name) and Path(program).name not in ("uv", "uvx"):
        names.add(Path(program).name)
    home = home_folder()
    bases = [
        *(Path(os.environ.get(variable) or home / default) for variable, default in _XDG.items()),
        home / "Library" / "Application Support",
        home / "Library" / "Caches",
    ]
    found = []
    for name in sorted(names):
        found += [home / f".{name}", home / f".{name}.json"]
        found += [base / FOLDER_NAMES.get(name, name) for base in bases]
        given = (os.environ.get(f"{name.upper()}_{what}") for what in ("HOME", "CONFIG_DIR"))
        found += [Path(place) for place in given if place]
    return [place for place in found if place.exists()]


_XDG = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_CACHE_HOME": ".cache",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
}


def _program(command: str) -> str | None:
    """Return the first word that is not an assignment.

    Raises:
        ValueError: a quote is not closed.
    """
    return next((word for word in shlex.split(command) if not _ASSIGNMENT.match(word)), None)


def _is_builtin(word: str) -> bool:
    return not _PROGRAM.fullmatch(Path(word).name) or word in {"cd", "exec", "export", "set", "if", "for", "while", "."}
