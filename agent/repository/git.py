"""How git is run: its settings, its environment, and what it says when it fails."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from agent.errors import AutoresearchError, PreconditionError
from agent.journal.paths import NOT_TRUSTED, not_trusted

# The person's hooks are for the person's commits; at night one that fails or asks would end the session. Patches and
# messages are as programs expect them, however the person likes to see them.
SETTINGS = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "i18n.commitEncoding=UTF-8", "i18n.logOutputEncoding=UTF-8"),
    *("diff.noprefix=false", "diff.mnemonicPrefix=false", "diff.relative=false", "diff.submodule=short"),
    *("color.ui=false", "core.quotePath=false"),
)
GIT = ["git", *(part for setting in SETTINGS for part in ("-c", setting))]
LOCK_ATTEMPTS, LOCK_WAIT_SECONDS = 8, 0.5
FALLBACK_IDENTITY = {"name": "autoresearch", "email": "autoresearch@localhost"}
# Of git's variables those that say how it works. The others say on what: a hook's or an alias's repository, not this.
OF_GIT = re.compile(r"GIT_((AUTHOR|COMMITTER)_\w+|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|EXEC_PATH|CEILING_DIRECTORIES)")
# A path is a path, whatever sign it begins with (gitglossary(7), pathspec).
LITERAL = "GIT_LITERAL_PATHSPECS"
NO_REPOSITORY, NO_WORK_TREE = "not a git repository", "must be run in a work tree"  # git's own words


class Git:
    """One repository, and the commands that are run on it.

    top: of its working tree. folder: git's own. user: the `name` and `email` that the person has configured.
    """

    def __init__(self, folder: Path) -> None:
        for name in [*os.environ]:
            if name.startswith("GIT_") and not OF_GIT.fullmatch(name):
                del os.environ[name]
        self.top = folder
        # Its words are in English.
        self._env = {**os.environ, "LANGUAGE": "C", "LC_ALL": "C", LITERAL: "1"}
        try:
            self.folder = Path(self.run("rev-parse", "--absolute-git-dir"))
            self.top = Path(self.run("rev-parse", "--show-toplevel")).resolve()
        except AutoresearchError as error:
            raise _no_repository(folder, str(error)) or error from None
        if not folder.is_relative_to(self.top):
            raise PreconditionError(
                f"{folder} is outside of {self.top}, where core.worktree puts the files of its repository: run there"
            )
        self.user = self._configured_user()
        self._env |= self._identity()

    def environment(self, **more: str) -> dict[str, str]:
        """What git sees of the environment, with `more`."""
        return {**self._env, **more}

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> str:
        """Run git. Returns what it prints, less the last line's end. Raises AutoresearchError with git's own words."""
        return os.fsdecode(self.fed([*args], b"", env or {})).removesuffix("\n")

    def fed(self, args: list[str], said: bytes, env: Mapping[str, str]) -> bytes:
        """Run git with `said` on its standard input. Returns what it prints; raises as `run` does."""
        for last in (*[False] * LOCK_ATTEMPTS, True):
            try:
                done = subprocess.run(
                    [*GIT, *args],
                    cwd=self.top,
                    env=self.environment(**env),
                    input=said,
                    capture_output=True,
                    check=False,
                )
            except OSError as error:
                raise _cannot_start(self.top, error) from None
            if done.returncode == 0:
                return done.stdout
            words = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
            # Another git may be at work for a moment: an editor's status, a person's commit.
            if last or ".lock': File exists" not in words:
                what = f"`git {' '.join(args[:2])}` failed in {self.top}"
                raise AutoresearchError(f"{what}: {words or done.returncode}")
            time.sleep(LOCK_WAIT_SECONDS)
        raise AssertionError("unreachable")

    def lines(self, *args: str) -> list[str]:
        """What git prints with `-z`, entry by entry."""
        return [line for line in self.run(*args).split("\0") if line]

    def configured(self, key: str) -> str:
        try:
            return self.run("config", "--get", key)
        except AutoresearchError:
            return ""

    def _configured_user(self) -> dict[str, str]:
        """The `name` and `email` that the person has configured; of what is missing none."""
        entries = []
        with contextlib.suppress(AutoresearchError):  # its exit code says that there is none
            entries = self.lines("config", "-z", "--get-regexp", "^user\\.(name|email)$")
        found = dict(entry.removeprefix("user.").partition("\n")[::2] for entry in entries)  # the last of each counts
        return {key: value for key, value in found.items() if value}

    def _identity(self) -> dict[str, str]:
        """A name for the loop's commits where the person has configured none."""
        env = {}
        for key, fallback in FALLBACK_IDENTITY.items():
            value = self.user.get(key, fallback)
            for role in ("AUTHOR", "COMMITTER"):
                variable = f"GIT_{role}_{key.upper()}"
                env[variable] = os.environ.get(variable) or value
        return env


def own_language() -> dict[str, str]:
    """The person's own, for what runs their programs: an empty variable counts as none."""
    return {name: os.environ.get(name, "") for name in ("LANGUAGE", "LC_ALL")}


def _no_repository(folder: Path, words: str) -> PreconditionError | None:
    """The sentence for a folder in which git finds nothing to work on; None for another failure of git."""
    if NOT_TRUSTED in words:
        return not_trusted(_top_of(folder))
    if NO_REPOSITORY in words:
        return PreconditionError(
            f"{folder} is not in a git repository: run `git init && git add -A && git commit -m start` there"
        )
    if NO_WORK_TREE in words:
        return PreconditionError(f"{folder} is in a bare repository, or in git's own folder: clone it and run there")
    return None


def _top_of(folder: Path) -> Path:
    """The repository that `folder` lies in, where git itself does not tell."""
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), folder)


def _cannot_start(folder: Path, error: OSError) -> AutoresearchError:
    if not folder.is_dir():
        return PreconditionError(f"there is no folder {folder} any more")
    if isinstance(error, FileNotFoundError):
        return PreconditionError("git is not installed: install it, then run again")
    return PreconditionError(f"git cannot be run: {error.strerror or error}; mend that, then run again")
