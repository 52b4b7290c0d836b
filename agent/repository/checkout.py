"""The user's checkout, and how it follows the session's branch without losing the user's edits."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AutoresearchError
from agent.repository.git import GIT, LOCK_ATTEMPTS, LOCK_WAIT_SECONDS, LOCKED, own_language, reason_of
from agent.repository.index import INDEX, LOCK_POLL, holding_index, index_with, scratch_folder
from agent.repository.workspace import Workspace

SETTLE_SECONDS, RECENT_SECONDS = 0.3, 1.0
DETACHED = 1  # the exit code with which `git symbolic-ref --quiet` says that HEAD is none
TOLD = ("-m", "autoresearch: move the branch")  # for the reflog


@dataclass(frozen=True)
class Changed:
    """A tracked file that differs from HEAD.

    Attributes:
        unmerged: whether it has conflicts that nobody has resolved.
    """

    name: str
    unmerged: bool


class Checkout:
    """Index and working tree of a workspace's repository. It has no state: create one wherever it is needed."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._git = workspace.git

    @property
    def branch(self) -> str | None:
        """The branch that is checked out; None for a detached HEAD."""
        # The short name is different if a tag has the same name as the branch.
        ref = self._git.asked("symbolic-ref", "--quiet", "HEAD", no=DETACHED)
        return None if ref is None else ref.removeprefix("refs/heads/")

    def changes(self) -> list[str]:
        """Return the tracked files that differ from HEAD. Untracked files belong to the user and do not count."""
        return [each.name for each in self.status()]

    def status(self) -> list[Changed]:
        """Return the tracked files that differ from HEAD, and how."""
        status = self._git.lines("status", "--porcelain", "--untracked-files=no", "-z", "--no-renames")
        return [Changed(entry[3:], "U" in entry[:2] or entry[:2] in ("AA", "DD")) for entry in status]

    def edited(self) -> list[str]:
        """Return the files that a candidate may change and that the user has changed in the checkout."""
        names = [inside for name in self.changes() if (inside := self._workspace.inside(name))]
        head = self._workspace.head if names else ""
        return [name for name in names if self._workspace.may_change(head, name)]

    def start_branch(self, branch: str, at: str, *, switch: bool = True) -> None:
        """Create a branch at a commit, and check it out unless the checkout has to stay where it is."""
        if switch:
            self._git.run("checkout", "--quiet", "-b", branch, at)
        else:
            self._git.run("update-ref", f"refs/heads/{branch}", at, "0" * len(at), *TOLD)

    def uncommit(self, branch: str, new: str, old: str) -> None:
        """Move `branch` from `old` back to `new`, and leave index and working tree as they are."""
        self._git.run("update-ref", f"refs/heads/{branch}", new, old, *TOLD)

    def switch(self, branch: str) -> None:
        if self.branch != branch:
            self._git.run("checkout", "--quiet", branch, "--")

    def advance(self, branch: str, new: str, old: str, keep: Collection[str] = ()) -> list[str]:
        """Move `branch` from `old` to `new`, and the checkout with it if it is on that branch.

        Of the files that differ between the two commits, those with the content of either belong to the loop and get
        the new content, in the working tree and in the index. Any other content is an edit of the user's and stays.
        Everything is prepared first, so that the checkout is in between the two commits only for a few renames. If the
        user checks out another branch until then, the checkout stays as it is. An interrupted call can be repeated with
        the same result.

        Args:
            branch: its name.
            new: the commit that it moves to.
            old: the commit that it is at.
            keep: files of the workspace that stay as they are in the working tree.

        Returns:
            The files that keep the user's edits.
        """
        # Git checks the old value: if the user commits at this moment, the move fails and the commit is not lost.
        at = self._workspace.resolve(f"refs/heads/{branch}")
        at = at if at in (old, new) else old
        if self.branch != branch:
            self._git.run("update-ref", f"refs/heads/{branch}", new, at, *TOLD)
            return []
        before, after = self._workspace.tree(old), self._workspace.tree(new)
        changed = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
        seen = {path: self._written(path) for path in changed}
        kept = {self._workspace.in_repository(path) for path in keep}
        theirs = [path for path in changed if path in kept or not self.holds(path, before.get(path), after.get(path))]
        with scratch_folder(self._git) as scratch:
            parts = {path: self._part(path, new, scratch) for path in changed if path in after and path not in theirs}
            try:
                with holding_index(self._git, scratch):
                    staged = self._workspace.staged()
                    known = {path: (before.get(path), after.get(path)) for path in changed}
                    entries = {path: after.get(path) for path, ours in known.items() if staged.get(path) in ours}
                    index = index_with(self._git, scratch, entries, len(new))
                    if any(staged.get(path) not in (before.get(path), after.get(path)) for path in {*staged, *before}):
                        self._settle(branch)
                    with self._moving(branch, new, at):
                        if self.branch != branch:  # left in the meantime: the files belong to another branch now
                            return []
                        for path in [each for each in changed if each not in theirs]:
                            if self._written(path) != seen[path]:  # the user has edited it in the meantime
                                theirs.append(path)
                            elif path in parts:
                                parts.pop(path).replace(self._workspace.top / path)
                            else:
                                (self._workspace.top / path).unlink(missing_ok=True)
                        index.replace(self._git.folder / INDEX)
            finally:
                for part in parts.values():
                    part.unlink(missing_ok=True)
        return theirs

    def heal(self, files: Iterable[str], commits: Iterable[str]) -> list[str]:
        """Restore files that a killed loop has left half written.

        These are the `files` whose content equals their content in one of `commits`, or that end inside a line of it:
        earlier versions wrote in place. Rows that end after a line count as well. Any other content is the user's own
        work and stays, as is a file without its last lines. A file that HEAD lacks is removed only if it equals one of
        these.

        Returns:
            Those that were untracked, and are removed.
        """
        removed, head = list[str](), self._workspace.head
        for path in self.left_over(files, commits):
            self._restore(path)
            if self._workspace.content(head, path) is None:
                removed.append(path)
        return removed

    def left_over(self, files: Iterable[str], commits: Iterable[str]) -> list[str]:
        """Return the files that `heal` would restore or remove."""
        left, head = list[str](), self._workspace.head
        changed = {self._workspace.inside(name) for name in self.changes()}
        rows = self._workspace.protocol.provenance.results_log.path
        known = [commit for commit in dict.fromkeys(commits) if commit]
        for path in files:
            target = self._workspace.folder / path
            if target.is_symlink() or (target.exists() and not target.is_file()):
                continue  # the loop makes neither links nor folders there
            found, is_there = target.read_bytes() if target.exists() else b"", target.exists()
            contents = [self._workspace.content(commit, path) or b"" for commit in known]
            if self._workspace.content(head, path) is None:
                if is_there and found and found in contents:
                    left.append(path)
            # A sparse checkout lacks files without a change.
            elif path in changed and (
                not is_there or any(_is_left_of(found, content, rows=path == rows) for content in contents)
            ):
                left.append(path)
        return left

    def holds(self, path: str, *entries: tuple[str, str] | None) -> bool:
        """Return whether a file in the working tree equals one of the entries of `Workspace.tree`.

        Args:
            path: relative to the top of the repository.
            entries: mode and blob; None means no file.
        """
        file = self._workspace.top / path
        if not os.path.lexists(file):
            return None in entries
        if file.is_symlink() or not file.is_file():
            return False
        ours = [entry[1] for entry in entries if entry is not None]
        if not ours:
            return False
        # Ask git only if the bytes differ: its filters may have changed them.
        return (
            _blob_of(file, len(ours[0])) in ours
            or self._git.run("hash-object", f"--path={path}", "--", str(file)) in ours
        )

    def put_back(self, files: Iterable[str], candidates: Iterable[str], target: str) -> tuple[list[str], list[str]]:
        """Give files of the working tree their content in `target`, on whichever branch, if git has what they hold now.

        What the user has staged of a file that is put back is taken out of the index, too. Repeating an interrupted
        call has the same result.

        Args:
            files: paths relative to the workspace.
            candidates: commits whose content of a file may be replaced.
            target: the commit that provides the new content; a file that it lacks is removed.

        Returns:
            The files that were put back, and those that hold something else.
        """
        commits = [commit for commit in dict.fromkeys(candidates) if self._workspace.resolve(commit)]
        trees = [self._workspace.tree(commit) for commit in commits]
        wanted, head = self._workspace.tree(target), self._workspace.tree(self._workspace.head)
        restored, newer, entries = list[str](), list[str](), dict[str, tuple[str, str] | None]()
        with scratch_folder(self._git) as scratch, holding_index(self._git, scratch):
            staged = self._workspace.staged()
            for path in sorted(files):
                name = self._workspace.in_repository(path)
                ours, want = [tree.get(name) for tree in trees], wanted.get(name)
                if not self.holds(name, want):
                    if not self.holds(name, *ours):
                        newer.append(path)
                        continue
                    if want is not None:
                        self._part(name, target, scratch).replace(self._workspace.top / name)
                    else:
                        (self._workspace.top / name).unlink(missing_ok=True)
                    restored.append(path)
                # Of a new file that git was only told about (`git add -N`), the index has no content.
                if staged.get(name) not in (head.get(name), want) and (want is None or staged.get(name) in ours):
                    entries[name] = head.get(name)
            if entries:
                index_with(self._git, scratch, entries, len(target)).replace(self._git.folder / INDEX)
        return restored, newer

    # Internals

    def _written(self, path: str) -> tuple[int, ...] | None:
        """Return a stamp that changes with every write to a file of the checkout; None if it does not exist."""
        try:
            found = (self._workspace.top / path).lstat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _part(self, path: str, commit: str, scratch: Path) -> Path:
        """Write the content of `path` in `commit`, as checked out, to a file that can be renamed into place."""
        target = self._workspace.top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # Run the user's filters with the user's own language settings.
        content = self._git.fed(["cat-file", "--filters", f"{commit}:{path}"], b"", own_language())
        mode = 0o755 if self._workspace.tree(commit)[path][0] == "100755" else 0o644
        same_disk = scratch.stat().st_dev == target.parent.stat().st_dev
        descriptor, name = tempfile.mkstemp(suffix=".part", dir=scratch if same_disk else target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), target.stat().st_mode & 0o777 if target.exists() else mode)
        return Path(name)

    def _settle(self, branch: str) -> None:
        """Wait until HEAD agrees with the index, or long enough that it does: then the user has staged something.

        `git switch` frees the index first, and sets HEAD after that. An index that is older does not wait for it.
        """
        with contextlib.suppress(OSError):
            if time.time() - (self._git.folder / INDEX).stat().st_mtime > RECENT_SECONDS:
                return
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.branch == branch and time.monotonic() < deadline:
            time.sleep(LOCK_POLL)

    @contextlib.contextmanager
    def _moving(self, branch: str, new: str, old: str) -> Iterator[None]:
        """Lock and check the branch for a move at the beginning of the block, and move it at the end."""
        mover = self._locked(f"update refs/heads/{branch} {new} {old}")
        try:
            yield
        finally:
            words = _ended(mover, b"commit\n")
        if mover.returncode != 0:
            raise self._not_moved(words, mover.returncode)

    def _locked(self, update: str) -> subprocess.Popen[bytes]:
        """Return a git that has locked a branch and checked that it can be moved, and waits for what to do.

        Another git may hold the lock for a moment, as in `Git.fed`: `git gc`, say.
        """
        for last in (*[False] * LOCK_ATTEMPTS, True):
            mover = subprocess.Popen(
                [*GIT, "update-ref", "--stdin", *TOLD],
                cwd=self._workspace.top,
                env=self._git.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C would otherwise end it between its two steps
            )
            assert mover.stdin is not None and mover.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                mover.stdin.write(os.fsencode(f"start\n{update}\nprepare\n"))
                mover.stdin.flush()
            if b"prepare: ok" in mover.stdout.readline() + mover.stdout.readline():
                return mover
            words = _ended(mover, b"abort\n")
            if last or LOCKED not in words:
                raise self._not_moved(words, mover.returncode)
            time.sleep(LOCK_WAIT_SECONDS)
        raise AssertionError("unreachable")

    def _not_moved(self, words: str, code: int) -> AutoresearchError:
        why, hint = reason_of(words, code)
        return AutoresearchError(f"`git update-ref` failed in {self._workspace.top}: {why}", hint=hint)

    def _restore(self, path: str) -> None:
        """Reset a file in the index and in the working tree to its content in HEAD."""
        name = self._workspace.in_repository(path)
        if self._git.run("ls-tree", "--name-only", "--full-tree", self._workspace.head, "--", name):
            self._git.run("checkout", "--quiet", self._workspace.head, "--", name)
        else:
            self._git.run("rm", "--quiet", "--cached", "--ignore-unmatch", "--", name)
            (self._workspace.folder / path).unlink(missing_ok=True)


def _ended(mover: subprocess.Popen[bytes], said: bytes) -> str:
    """Tell git its last command, wait until it has ended, and return its complaints as a line."""
    assert mover.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        mover.stdin.write(said)
        mover.stdin.flush()
    return " ".join(mover.communicate()[1].decode(errors="replace").split())


def _is_left_of(found: bytes, content: bytes, *, rows: bool) -> bool:
    """Return whether a file was being written with `content`: `found` is all of it, or a part that nobody would save.

    Args:
        rows: whether it has the rows of the session, of which the user edits none.
    """
    if found == content or not content.startswith(found):
        return found == content
    return rows or not (found.endswith(b"\n") or found == b"" or content[len(found) :].startswith((b"\n", b"\r")))


def _blob_of(file: Path, digits: int) -> str:
    """Return the hash of the blob with exactly the bytes of `file` (gitformat-pack(5), object headers).

    Args:
        digits: the length of a hash in this repository: 40 for SHA-1, 64 for SHA-256.
    """
    try:
        content = file.read_bytes()
    except OSError:
        return ""  # git hash-object reports the reason
    algorithm = hashlib.sha1 if digits == 40 else hashlib.sha256
    return algorithm(b"blob %d\0" % len(content) + content).hexdigest()
