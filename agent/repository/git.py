"""How git is run: its settings, its environment, and what it says when it fails."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from agent.errors import AutoresearchError, PreconditionError
from agent.journal.paths import NOT_TRUSTED, not_trusted

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a missing git is for us to report, when it is needed
try:
    import git
except ImportError as failed:  # it runs `git version` even so
    raise PreconditionError(f"git cannot be run: {' '.join(str(failed).split())}; mend that, then run again") from None

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
OF_GIT = re.compile(
    r"GIT_((AUTHOR|COMMITTER)_\w+|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|EXEC_PATH|PYTHON_\w+|CEILING_DIRECTORIES)"
)
# A path is a path, whatever sign it begins with (gitglossary(7), pathspec).
LITERAL = "GIT_LITERAL_PATHSPECS"


class Git:
    """One repository, and the commands that are run on it. top: of its working tree. folder: git's own."""

    def __init__(self, folder: Path) -> None:
        for name in [*os.environ]:
            if name.startswith("GIT_") and not OF_GIT.fullmatch(name):
                del os.environ[name]
        try:
            # A folder may be called `run$X`: its name is no place for variables.
            self.repo = git.Repo(folder, search_parent_directories=True, expand_vars=False)
        except git.InvalidGitRepositoryError:
            raise PreconditionError(
                f"{folder} is not in a git repository: run `git init && git add -A && git commit -m start` there"
            ) from None
        if self.repo.bare or self.repo.working_tree_dir is None:
            raise PreconditionError(f"{folder} is in a bare repository: clone it and run there")
        self.top = Path(self.repo.working_tree_dir).resolve()
        self.folder = Path(self.repo.git_dir)
        self._literally(self.top)
        self._env: dict[str, str] = {}
        self._require_trusted()
        self._env = self._identity()

    def close(self) -> None:
        self.repo.close()

    def environment(self, **more: str) -> dict[str, str]:
        """What git sees of the environment, with `more`."""
        return {**os.environ, **self._env, **more}

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> str:
        """Run git; raises AutoresearchError with git's own words."""
        for last in (*[False] * LOCK_ATTEMPTS, True):
            try:
                return str(self.repo.git.execute([*GIT, *args], env={LITERAL: "1", **self._env, **(env or {})}))
            except git.GitCommandNotFound:
                raise PreconditionError("git is not installed: install it, then run again") from None
            except git.GitCommandError as error:
                words = (error.stderr or error.stdout or "").strip().removeprefix("stderr: ").strip("' \n")
                # Another git may be at work for a moment: an editor's status, a person's commit.
                if last or ".lock': File exists" not in words:
                    what = f"`git {' '.join(args[:2])}` failed in {self.top}"
                    raise AutoresearchError(f"{what}: {' '.join(words.split()) or error.status}") from None
                time.sleep(LOCK_WAIT_SECONDS)
        raise AssertionError("unreachable")

    def fed(self, args: list[str], said: str, env: Mapping[str, str]) -> bytes:
        """Run git with `said` on its standard input. Returns what it prints."""
        done = subprocess.run(
            [*GIT, *args],
            cwd=self.top,
            env={**os.environ, LITERAL: "1", **self._env, **env},
            input=os.fsencode(said),
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            words = " ".join(done.stderr.decode(errors="replace").split())
            raise AutoresearchError(f"`git {args[0]}` failed in {self.top}: {words or done.returncode}")
        return done.stdout

    def lines(self, *args: str) -> list[str]:
        """What git prints with `-z`, entry by entry."""
        return [line for line in self.run(*args).split("\0") if line]

    def configured(self, key: str) -> str:
        try:
            return self.run("config", "--get", key)
        except AutoresearchError:
            return ""

    def _literally(self, folder: Path) -> None:
        """Run git in `folder` as it is spelled: GitPython puts variables into the text of a path, never into a Path."""
        wrapper = git.Git(folder)
        wrapper.update_environment(**self.repo.git.environment())
        self.repo.git = wrapper

    def _require_trusted(self) -> None:
        """Raise PreconditionError where git reads nothing here because the folder belongs to another user."""
        try:
            self.run("rev-parse", "--git-dir")
        except AutoresearchError as error:
            if NOT_TRUSTED not in str(error):
                raise
            raise not_trusted(self.top) from None

    def _identity(self) -> dict[str, str]:
        """A name for the loop's commits where the person has configured none."""
        env = {}
        for key, fallback in FALLBACK_IDENTITY.items():
            value = self.configured(f"user.{key}") or fallback
            for role in ("AUTHOR", "COMMITTER"):
                variable = f"GIT_{role}_{key.upper()}"
                env[variable] = os.environ.get(variable) or value
        return env
