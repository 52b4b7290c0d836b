"""Run git with fixed settings and a clean environment, and turn its failures into errors."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from agent.errors import AutoresearchError, PreconditionError
from agent.journal.paths import NOT_TRUSTED, not_trusted
from agent.system.git_variables import without_others
from agent.system.invocation import typed
from agent.system.shielded import run_shielded

# The user's hooks are for the user's commits; a hook that fails or prompts at night would end the session. Patches and
# messages must be parseable, whatever display settings the user has configured.
SETTINGS = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "i18n.commitEncoding=UTF-8", "i18n.logOutputEncoding=UTF-8"),
    *("diff.noprefix=false", "diff.mnemonicPrefix=false", "diff.relative=false", "diff.submodule=short"),
    *("color.ui=false", "core.quotePath=false"),
    # The journal is synced, so what it names must be, too: else a power cut leaves a ref whose commit is an empty file.
    "core.fsync=committed",  # git 2.36 and later; earlier ones ignore it
)
GIT = ["git", *(part for setting in SETTINGS for part in ("-c", setting))]
OLDEST = (2, 29)  # for `fetch --no-write-fetch-head`, and `update-ref --stdin` in several steps
LOCK_ATTEMPTS, LOCK_WAIT_SECONDS = 8, 0.5
LOCKED = ".lock': File exists"  # in git's own words
FALLBACK_IDENTITY = {"name": "autoresearch", "email": "autoresearch@localhost"}
# Take every path literally, whatever character it starts with (gitglossary(7), pathspec).
LITERAL = "GIT_LITERAL_PATHSPECS"
NO_REPOSITORY, NO_WORK_TREE = "not a git repository", "must be run in a work tree"  # git's own words


# In git's own words: a command names an object that the repository lacks.
LOST = re.compile(
    r"not a tree object|bad (?:object|revision)|not a valid object name|nonexistent object", re.IGNORECASE
)
MOVED = re.compile(r"is at [0-9a-f]{40,64} but expected")  # a ref, in git's own words
HASH = re.compile(r"\b(?:[0-9a-f]{40}|[0-9a-f]{64})\b")


class GitFailed(AutoresearchError):
    """Git has run and failed.

    Attributes:
        code: its exit code; negative if a signal killed it.
        waited: whether it has waited in vain for a lock.
    """

    def __init__(self, sentence: str, code: int, *, hint: str = "", waited: bool = False) -> None:
        super().__init__(sentence, hint=hint)
        self.code, self.waited = code, waited


def reason_of(words: str, code: int) -> tuple[str, str]:
    """Return why git has failed, and a hint if it waited in vain for a lock, or another git was faster.

    Args:
        words: what it printed.
        code: its exit code.
    """
    if MOVED.search(words):
        return words, "another command has moved it in the meantime: run the same command again"
    if (lock := re.search(r"'([^']*\.lock)': File exists", words)) is None:
        return words or f"exit code {code}", ""
    remedy = f"if no other git is running, one that was killed has left it: delete it with `rm {shlex.quote(lock[1])}`"
    return f"{lock[1]} exists", f"{remedy}, then run the same command again"


def _lost(words: str, args: list[str]) -> tuple[str, str] | None:
    """Return why git has failed, and a hint, if it lacks a commit: its refs were deleted, and git has collected it."""
    # It names a bad revision, but not what is no tree.
    where = " ".join([words, *args]) if "not a tree object" in words else words
    named = HASH.search(where) if LOST.search(words) else None
    if named is None:
        return None
    delete = typed("sessions --delete TAG")
    return (
        f"the repository no longer has {named[0][:12]}",
        f"fetch it from a clone that has it; without one, delete the session with `{delete}`",
    )


class Git:
    """A repository and the git commands that run in it.

    The first one takes git's variables that select a repository, such as GIT_DIR of a calling hook, out of this
    process's environment.

    Args:
        folder: any folder of its working tree.

    Attributes:
        top: the top folder of the working tree.
        folder: the absolute path of the .git folder.
        user: `name` and `email` of the user, as git would take them for a commit; missing ones are left out.

    Raises:
        PreconditionError: `folder` is not in a working tree, git does not trust its owner, or git cannot be started.
    """

    def __init__(self, folder: Path) -> None:
        _forget_others()
        self.top = folder
        # Error messages are matched below, so they must be in English.
        self._env = {**os.environ, "LANGUAGE": "C", "LC_ALL": "C", LITERAL: "1"}
        try:
            self.folder = Path(self.run("rev-parse", "--absolute-git-dir"))
            self.top = Path(self.run("rev-parse", "--show-toplevel")).resolve()
        except AutoresearchError as error:
            raise _no_repository(folder, str(error)) or error from None
        if not folder.is_relative_to(self.top):
            raise PreconditionError(
                f"{folder} is outside of {self.top}, which core.worktree sets as the working tree of its repository",
                hint=f"run the same command in {self.top}",
            )
        configured = self._configured_names()
        self.user = _identity(configured, "author")
        for role in ("author", "committer"):
            names = {**FALLBACK_IDENTITY, **_identity(configured, role)}
            self._env |= {f"GIT_{role}_{key}".upper(): value for key, value in names.items()}

    @property
    def knows_user(self) -> bool:
        """Whether name and address of the user are configured, or set by variables."""
        return len(self.user) == len(FALLBACK_IDENTITY)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment variables for git, with `more` added."""
        return {**self._env, **more}

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> str:
        """Run git and return its output without the final newline. Raises AutoresearchError with git's own message."""
        return os.fsdecode(self.fed([*args], b"", env or {})).removesuffix("\n")

    def asked(self, *args: str, no: int | None = None) -> str | None:
        """Run git and return its output, or None if it says no: its exit code is `no`, or positive if that is None.

        Raises:
            AutoresearchError: it has said nothing: it could not be started, was killed, or failed.
        """
        try:
            return self.run(*args)
        except GitFailed as error:
            if error.code < 0 or no not in (None, error.code):
                raise
            return None

    def fed(self, args: list[str], said: bytes, env: Mapping[str, str]) -> bytes:
        """Run git with `said` on its standard input and return its output. Raises as `run` does."""
        # A split index would leave a part of it in .git for each index of our own.
        own = ["-c", "core.splitIndex=false"] if "GIT_INDEX_FILE" in env else []
        for last in (*[False] * LOCK_ATTEMPTS, True):
            try:
                done = run_shielded([*GIT, *own, *args], cwd=self.top, env=self.environment(**env), said=said)
            except OSError as error:
                raise _cannot_start(self.top, error) from None
            if done.returncode == 0:
                return done.stdout
            words = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
            # Another git may hold the lock for a moment: an editor's status, a commit of the user's.
            if last or LOCKED not in words:
                what = f"`git {' '.join(args[:2])}` failed in {self.top}"
                why, hint = _lost(words, args) or reason_of(words, done.returncode)
                raise GitFailed(f"{what}: {why}", done.returncode, hint=hint, waited=LOCKED in words)
            time.sleep(LOCK_WAIT_SECONDS)
        raise AssertionError("unreachable")

    def lines(self, *args: str) -> list[str]:
        """Run git with arguments that include `-z` and return the entries that it prints."""
        return [line for line in self.run(*args).split("\0") if line]

    def configured(self, key: str) -> str:
        """Return a value of git's configuration, or an empty string if it is not set."""
        return self.asked("config", "--get", key) or ""

    def require_recent(self) -> None:
        """Raise PreconditionError if git is too old to move a branch in a transaction of several steps."""
        found = re.search(r"(\d+)\.(\d+)", self.run("version"))
        if found and (int(found[1]), int(found[2])) < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise PreconditionError(f"git {found[0]} is too old: {needed} or later is needed", hint="update git")

    def require_writable(self, what: str = "no candidate") -> None:
        """Raise PreconditionError if the user, or a sandbox around this program, may not write to the repository.

        Args:
            what: cannot be committed then.
        """
        if not os.access(self.folder, os.W_OK):
            raise PreconditionError(
                f"{self.folder} is read-only, so {what} can be committed",
                hint=f"in the sandbox of a coding agent, use the tools of `{typed('mcp')}`, which `{typed('skill')}` "
                "sets up, or allow this command to run outside of the sandbox",
            )

    def require_identity(self) -> None:
        """Raise PreconditionError if git refuses name, address or date of the author or the committer of commits."""
        for role in ("author", "committer"):
            try:
                self.run("var", f"GIT_{role.upper()}_IDENT")
            except GitFailed as error:
                if error.code < 0:
                    raise
                words = str(error).partition(": ")[2].removeprefix("fatal: ")
                raise PreconditionError(
                    f"git refuses the {role} of commits: {words}",
                    hint=f"correct user.name and user.email of `git config`, or {role}.name and {role}.email if set, "
                    f"and the variables GIT_{role.upper()}_*, then run the same command again",
                ) from None

    def _configured_names(self) -> dict[str, str]:
        """Return the names and addresses of git's configuration by key, such as `user.name`."""
        entries = []
        with contextlib.suppress(AutoresearchError):  # git fails if none is set
            entries = self.lines("config", "-z", "--get-regexp", "^(user|author|committer)\\.(name|email)$")
        return dict(entry.partition("\n")[::2] for entry in entries)  # the last of each counts


def _identity(configured: Mapping[str, str], role: str) -> dict[str, str]:
    """Return `name` and `email` of a role as git finds them (git-commit(1)), without those that are missing.

    Args:
        configured: names and addresses by their keys in git's configuration.
        role: `author` or `committer`.
    """
    found = {}
    for key in FALLBACK_IDENTITY:
        asked = (os.environ.get(f"GIT_{role}_{key}".upper()), configured.get(f"{role}.{key}"))
        found[key] = next(filter(None, [*asked, configured.get(f"user.{key}")]), "")
    found["email"] = found["email"] or os.environ.get("EMAIL", "")
    return {key: value for key, value in found.items() if value}


def own_language() -> dict[str, str]:
    """Return the user's own language variables, for git commands that run the user's filters. Empty means not set."""
    return {name: os.environ.get(name, "") for name in ("LANGUAGE", "LC_ALL")}


def new_repository(folder: Path, kind: str) -> Git:
    """Make a repository without commits in a folder, and return its git.

    Args:
        kind: of its hashes: "sha1" or "sha256".

    Raises:
        AutoresearchError: git could not make it.
    """
    _forget_others()
    command = [*GIT, "init", "--quiet", "--template=", f"--object-format={kind}", "--initial-branch=station"]
    done = run_shielded(command, cwd=folder)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()
        raise AutoresearchError(f"cannot make a clone in {folder}: {words[:200]}")
    return Git(folder.resolve())


def _forget_others() -> None:
    """Drop git's variables that select another repository from the environment of this process."""
    kept = without_others(os.environ)
    for name in {*os.environ} - {*kept}:
        del os.environ[name]
    os.environ.update(kept)


def _no_repository(folder: Path, words: str) -> PreconditionError | None:
    """Return the error for a folder outside of any usable working tree, or None for another failure of git."""
    if NOT_TRUSTED in words:
        return not_trusted(_top_of(folder))
    if NO_REPOSITORY in words:
        empty = folder.is_dir() and not any(folder.iterdir())  # git commits nothing in an empty folder
        return PreconditionError(
            f"{folder} is not in a git repository",
            hint=f"{'put your files there, then ' if empty else ''}run `git init && git add -A && git commit -m start` "
            "there",
        )
    if NO_WORK_TREE in words:
        return PreconditionError(
            f"{folder} is in a bare repository or in a .git folder",
            hint="clone the repository and run the same command in the clone",
        )
    return None


def _top_of(folder: Path) -> Path:
    """Return the repository that contains `folder`, for a repository in which git refuses to work."""
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), folder)


def _cannot_start(folder: Path, error: OSError) -> AutoresearchError:
    if not folder.is_dir():
        return PreconditionError(f"the folder {folder} no longer exists")
    if isinstance(error, FileNotFoundError):
        return PreconditionError("git is not installed", hint="install git, then run the same command again")
    return PreconditionError(
        f"cannot run git: {error.strerror or error}", hint="fix that, then run the same command again"
    )
