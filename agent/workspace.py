"""Git: the session's branch, candidates, keeping and discarding. The only module that touches git.

A candidate is a commit from the moment it exists, made without the index and without moving the branch: its files are
written to the working tree, and `refs/autoresearch/<tag>/<number>` keeps it for ever. The branch moves once an
experiment, to a commit that holds the incumbent and the new row of the results.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from agent.errors import AutoresearchError, PreconditionError, Violation
from agent.protocol import Protocol

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a missing git is for us to report, when it is needed
try:
    import git
except ImportError as failed:  # it runs `git version` even so
    raise PreconditionError(f"git cannot be run: {' '.join(str(failed).split())}; mend that, then run again") from None

# The person's hooks are for the person's commits; at night one that fails or asks would end the session.
GIT = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"]
LOCK_ATTEMPTS, LOCK_WAIT_SECONDS = 8, 0.5
FALLBACK_IDENTITY = {"name": "autoresearch", "email": "autoresearch@localhost"}


class Workspace:
    """The folder with protocol.json, inside a git repository (at its top or below)."""

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        self.folder = folder.resolve()
        self._protocol = protocol
        try:
            self._repo = git.Repo(self.folder, search_parent_directories=True)
        except git.InvalidGitRepositoryError:
            raise PreconditionError(
                f"{self.folder} is not in a git repository: run `git init && git add -A && git commit -m start` there"
            ) from None
        if self._repo.bare or self._repo.working_tree_dir is None:
            raise PreconditionError(f"{self.folder} is in a bare repository: clone it and run there")
        self._top = Path(self._repo.working_tree_dir).resolve()
        self._prefix = PurePosixPath(self.folder.relative_to(self._top).as_posix())
        self._short: dict[str, str] = {}
        self._env: dict[str, str] = {}
        self._env = self._identity()

    def close(self) -> None:
        self._repo.close()

    # What there is

    @property
    def prefix(self) -> str:
        """Where the workspace lies in its repository: `.` at the top."""
        return str(self._prefix)

    @property
    def head(self) -> str:
        try:
            return self._git("rev-parse", "--verify", "HEAD")
        except AutoresearchError:
            raise PreconditionError(
                f"{self._top} has no commit yet: `git add` what belongs to it and commit, then run again"
            ) from None

    @property
    def branch(self) -> str | None:
        """The branch that is checked out; None for a detached HEAD."""
        try:
            return self._git("symbolic-ref", "--quiet", "--short", "HEAD")
        except AutoresearchError:
            return None

    def resolve(self, name: str) -> str | None:
        """The commit that a ref or a hash stands for; None where there is no such commit."""
        try:
            return self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except AutoresearchError:
            return None

    @property
    def author(self) -> str | None:
        """`Name <address>` as the person has configured it; None where either is missing."""
        name, address = self._configured("user.name"), self._configured("user.email")
        return f"{name} <{address}>" if name and address else None

    def changes(self) -> list[str]:
        """Tracked files that differ from HEAD. Untracked files are the person's own and do not count."""
        status = self._git("status", "--porcelain", "--untracked-files=no", "-z", "--no-renames")
        return [entry[3:] for entry in status.split("\0") if entry]

    def is_tracked(self, path: str) -> bool:
        return bool(self._git("ls-files", "--", self._in_repo(path)))

    def mutable_files(self) -> dict[str, str]:
        """path -> text of every tracked file that a candidate may change, from the working tree.

        No symbolic link is one: what git keeps of it is where it leads, and a program's text leads nowhere.
        """
        texts = {}
        for name in self._git("ls-files", "-z", "--", str(self.folder)).split("\0"):
            path = str(PurePosixPath(name).relative_to(self._prefix)) if name else ""
            file = self.folder / path
            if path and self._protocol.mutable_surface.allows(path) and file.is_file() and not file.is_symlink():
                with contextlib.suppress(UnicodeDecodeError):  # a binary file is no text to edit
                    texts[path] = _read(file)
        return texts

    def sources(self) -> list[Path]:
        """Every tracked Python file of the workspace."""
        names = self._git("ls-files", "-z", "--", f"{self.folder}/*.py").split("\0")
        return [self._top / name for name in names if name]

    def protected_files(self) -> list[Path]:
        """The harness, the forbidden files (tracked or not) and protocol.json itself."""
        patterns = [*self._protocol.immutable_harness.paths, *self._protocol.mutable_surface.forbidden_globs]
        found = {self.folder / "protocol.json"}
        for pattern in patterns:
            found.update(path for path in self.folder.glob(pattern.removeprefix("/")) if path.is_file())
            if not any(sign in pattern for sign in "*?["):
                found.add(self.folder / pattern)
        return sorted(path for path in found if not path.is_dir())

    def show(self, commit: str, path: str) -> str | None:
        """The text of `path` in `commit`, or None where it has no such file."""
        content = self._content(commit, path)
        return None if content is None else content.decode(errors="surrogateescape")

    def without(self, text: str, after: str, before: str) -> str | None:
        """`text` with the change from `before` to `after` taken back; None where later changes stand in the way."""
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(scratch) / name for name in ("text", "after", "before")]
            for path, content in zip(paths, (text, after, before), strict=True):
                _write(path, content)
            try:
                self._repo.git.execute([*GIT, "merge-file", "--quiet", *map(str, paths)])
            except git.GitCommandError:
                return None  # its exit code is the number of conflicts
            return _read(paths[0])

    def diff(self, old: str, new: str) -> str:
        """The unified diff of the workspace from one commit to another, the results left out."""
        results = f":(top,exclude){self._in_repo(self._protocol.provenance.results_log.path)}"
        return self._git(
            "diff", "--no-color", "--no-ext-diff", "--no-textconv", old, new, "--", str(self.folder), results
        )

    def export(self, folder: Path) -> Path:
        """Write every tracked file, as HEAD has it, below `folder`, without git's own. Returns the workspace there."""
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self._git("read-tree", "HEAD", env=index)
            self._git("checkout-index", "--all", f"--prefix={folder}/", env=index)
        return folder / self._prefix

    def copy(self, folder: Path) -> Path:
        """Like `export`, with a repository and one commit of its own. Returns the workspace there."""
        inside = self.export(folder)
        for args in (
            ("init", "--quiet"),
            ("add", "--all", "--force"),
            ("commit", "--quiet", "--allow-empty", "-m", "copy"),
        ):
            self._git("-C", str(folder), "-c", "commit.gpgsign=false", *args)
        return inside

    def untracked(self) -> list[str]:
        """Files and folders of the workspace that git does not track, ignored ones too."""
        names = self._git("ls-files", "-z", "--others", "--directory", "--", str(self.folder)).split("\0")
        return [str(PurePosixPath(name).relative_to(self._prefix)) for name in names if name]

    def short(self, commit: str) -> str:
        """Seven characters, or as many more as tell it apart. Remembered: every row is written again with each."""
        if commit not in self._short:
            self._short[commit] = self._git("rev-parse", "--short=7", commit)
        return self._short[commit]

    # What a session does

    def require_clean(self) -> None:
        changed = self.changes()
        if changed:
            shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise PreconditionError(
                f"the working tree has uncommitted changes ({shown}): commit them, or `git stash` them, then run again"
            )
        for name in ("MERGE_HEAD", "rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD", "BISECT_LOG"):
            if (Path(self._repo.git_dir) / name).exists():
                raise PreconditionError(
                    f"git is in the middle of something ({name}): finish or abort it, then run again"
                )

    def start_branch(self, branch: str, at: str = "HEAD") -> None:
        self._git("checkout", "--quiet", "-b", branch, at)

    def switch(self, branch: str) -> None:
        if self.branch != branch:
            self._git("checkout", "--quiet", branch)

    def commit_candidate(self, ref: str, files: Mapping[str, str], message: str) -> str:
        """A commit on top of HEAD with `files` changed, kept under `ref`. Raises Violation on a path not allowed."""
        for path in files:
            inside = (self.folder / path).resolve().is_relative_to(self.folder)
            if not inside or not self._protocol.mutable_surface.allows(path):
                raise Violation(f"the proposal changes {path}, which mutableSurface does not allow")
        commit = self._commit_on(self.head, {path: text.encode() for path, text in files.items()}, message)
        self.keep(ref, commit)
        return commit

    def place(self, files: Mapping[str, str], without: Iterable[str] = ()) -> None:
        """Write a candidate's files to the working tree; those in `without` it does not have."""
        for path in without:
            (self.folder / path).unlink(missing_ok=True)
        for path, text in files.items():
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(target, text)

    def commit_results(self, parent: str, text: str, message: str) -> str:
        """A commit on top of `parent` with the results in it. Nothing moves yet: `move` does that."""
        return self._commit_on(parent, {self._protocol.provenance.results_log.path: text.encode()}, message)

    def move(self, branch: str, new: str, old: str | None = None) -> None:
        """Move `branch`; with `old`, only from there. The working tree stays as it is."""
        self._git("update-ref", f"refs/heads/{branch}", new, *([old] if old else []))

    def restore(self, files: Iterable[str]) -> None:
        """Give `files` in the index and in the working tree the content that HEAD has."""
        for path in files:
            name = self._in_repo(path)
            if self._git("ls-tree", "--name-only", "--full-tree", "HEAD", "--", name):
                self._git("checkout", "--quiet", "HEAD", "--", f":/{name}")
            else:
                self._git("rm", "--quiet", "--cached", "--ignore-unmatch", "--", f":/{name}")
                (self.folder / path).unlink(missing_ok=True)

    def keep(self, ref: str, commit: str) -> None:
        self._git("update-ref", ref, commit)

    def heal(self, files: Iterable[str], commits: Iterable[str]) -> list[str]:
        """Restore what a crash left half written: files that hold (a beginning of) what one of `commits` has in them.

        Anything else in them, text or not, is the person's own work and stays. Returns the names of those that were
        not as in HEAD.
        """
        before = self.changes()
        known = [commit for commit in dict.fromkeys(commits) if commit]
        for path in files:
            target = self.folder / path
            found = target.read_bytes() if target.is_file() else b""
            if any((self._content(commit, path) or b"").startswith(found) for commit in known):
                self.restore([path])
        return sorted({*before} - {*self.changes()})

    def exclude(self, patterns: Iterable[str]) -> None:
        """Keep the loop's own files out of the person's `git status`, where .gitignore does not do so already."""
        exclude = Path(self._git("rev-parse", "--path-format=absolute", "--git-path", "info/exclude"))
        present = exclude.read_text().splitlines() if exclude.exists() else []
        missing = [pattern for pattern in patterns if pattern not in present and not self._is_ignored(pattern)]
        if missing:
            exclude.parent.mkdir(exist_ok=True)
            exclude.write_text("\n".join([*present, *missing]) + "\n")

    def restore_unexpected(self, files: Iterable[str], rescued: Path) -> list[str]:
        """Undo what happened to tracked files other than `files` during a run; returns their names.

        The run did it, or a person who edited something meanwhile: what was there is kept under `rescued`.
        """
        if self.branch is not None and self.resolve(f"refs/heads/{self.branch}") is None:
            return []  # somebody deleted the branch: there is nothing to compare with, and the loop will say so
        expected = {self._in_repo(path) for path in files}
        unexpected = [name for name in self.changes() if name not in expected]
        for name in unexpected:
            if (self._top / name).is_file():
                (rescued / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self._top / name, rescued / name)
            self._git("checkout", "--quiet", "HEAD", "--", f":/{name}")
        return unexpected

    # Inside

    def _commit_on(self, parent: str, contents: Mapping[str, bytes], message: str) -> str:
        """Plumbing throughout: no hook, no signature prompt and no index of the person's is involved."""
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self._git("read-tree", parent, env=index)
            for path, content in contents.items():
                blob = Path(scratch) / "blob"
                blob.write_bytes(content)
                sha = self._git("hash-object", "-w", "--no-filters", "--", str(blob))
                name = self._in_repo(path)
                mode = self._git("ls-tree", "--full-tree", "--format=%(objectmode)", parent, "--", name) or "100644"
                self._git("update-index", "--add", "--cacheinfo", f"{mode},{sha},{name}", env=index)
            tree = self._git("write-tree", env=index)
        return self._git("commit-tree", tree, "-p", parent, "-m", message)

    def _content(self, commit: str, path: str) -> bytes | None:
        """What `path` holds in `commit`, or None where it has no such file."""
        command = [*GIT, "show", f"{commit}:{self._in_repo(path)}"]
        try:
            return bytes(self._repo.git.execute(command, strip_newline_in_stdout=False, stdout_as_string=False))
        except git.GitCommandError:
            return None

    def _in_repo(self, path: str) -> str:
        return str(self._prefix / path)

    def _git(self, *args: str, env: Mapping[str, str] | None = None) -> str:
        """Run git; raises AutoresearchError with git's own words."""
        for last in (*[False] * LOCK_ATTEMPTS, True):
            try:
                return str(self._repo.git.execute([*GIT, *args], env={**self._env, **(env or {})}))
            except git.GitCommandNotFound:
                raise PreconditionError("git is not installed: install it, then run again") from None
            except git.GitCommandError as error:
                words = (error.stderr or error.stdout or "").strip().removeprefix("stderr: ").strip("' \n")
                # Another git may be at work for a moment: an editor's status, a person's commit.
                if last or ".lock': File exists" not in words:
                    what = f"`git {' '.join(args[:2])}` failed in {self._top}"
                    raise AutoresearchError(f"{what}: {' '.join(words.split()) or error.status}") from None
                time.sleep(LOCK_WAIT_SECONDS)
        raise AssertionError("unreachable")

    def _is_ignored(self, path: str) -> bool:
        try:
            return bool(self._git("check-ignore", "--no-index", "--", self._in_repo(path)))
        except AutoresearchError:
            return False

    def _identity(self) -> dict[str, str]:
        """A name for the loop's commits where the person has configured none."""
        env = {}
        for key, fallback in FALLBACK_IDENTITY.items():
            value = self._configured(f"user.{key}") or fallback
            for role in ("AUTHOR", "COMMITTER"):
                variable = f"GIT_{role}_{key.upper()}"
                env[variable] = os.environ.get(variable) or value
        return env

    def _configured(self, key: str) -> str:
        try:
            return self._git("config", "--get", key)
        except AutoresearchError:
            return ""


def _read(path: Path) -> str:
    """Text with its line endings as they are."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def _write(path: Path, text: str) -> None:
    """Whole or not at all, with the mode that the file had."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    if path.exists():
        part.chmod(path.stat().st_mode)
    part.replace(path)
