"""The person's checkout: what it has, and how it follows the session's branch without losing what a person wrote."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from agent.errors import AutoresearchError, PreconditionError
from agent.protocol.models import FILENAME
from agent.repository.git import GIT, LITERAL, own_language
from agent.repository.workspace import Workspace


class Checkout:
    """Index and working tree of a workspace's repository. It remembers nothing: make one wherever it is needed."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._git = workspace.git

    @property
    def branch(self) -> str | None:
        """The branch that is checked out; None for a detached HEAD."""
        try:
            # Not the short name, which is another where a tag is called like the branch.
            return self._git.run("symbolic-ref", "--quiet", "HEAD").removeprefix("refs/heads/")
        except AutoresearchError:
            return None

    def changes(self) -> list[str]:
        """Tracked files that differ from HEAD. Untracked files are the person's own and do not count."""
        status = self._git.run("status", "--porcelain", "--untracked-files=no", "-z", "--no-renames")
        return [entry[3:] for entry in status.split("\0") if entry]

    def edited(self) -> list[str]:
        """Files that a candidate may change and that a person has changed in the checkout."""
        names = [inside for name in self.changes() if (inside := self._workspace.inside(name))]
        head = self._workspace.head if names else ""
        return [name for name in names if self._workspace.may_change(head, name)]

    def require_free(self, branch: str, refs: str) -> None:
        """Raises PreconditionError where git could not make `branch`, or commits are kept below `refs` already."""
        full = f"refs/heads/{branch}"
        try:
            self._git.run("check-ref-format", full)
        except AutoresearchError:
            raise PreconditionError(
                f"{branch!r} is no name that git takes for a branch: choose another --tag, or branchPattern"
            ) from None
        # On such a disk git takes names that differ in their case for one.
        same = str.casefold if self._git.configured("core.ignorecase") == "true" else str
        for ref in self._git.run("for-each-ref", "--format=%(refname)").splitlines():
            found, kind = same(ref), ref.removeprefix("refs/heads/")
            if found == same(full):
                raise PreconditionError(
                    f"the branch {kind} exists but no session here belongs to it: choose another --tag, or delete the "
                    f"branch with `git branch -D {kind}`"
                )
            if same(full).startswith(f"{found}/") or found.startswith(f"{same(full)}/"):
                raise PreconditionError(
                    f"git cannot have the branch {branch} beside {kind}: rename that with `git branch -m {kind} NAME`, "
                    "or choose another --tag"
                )
            if same(refs).startswith(f"{found}/") or found == same(refs):
                raise PreconditionError(
                    f"git cannot keep commits as {refs}/1 beside {ref}: rename that, or choose another --tag"
                )
            if found.startswith(f"{same(refs)}/"):
                raise PreconditionError(
                    f"{ref} keeps an experiment of a session that is no longer here: choose another --tag, or let go "
                    f"of those with `git for-each-ref --format='delete %(refname)' {refs}/ | git update-ref --stdin`"
                )

    def require_clean(self, *, notes: bool = True) -> None:
        """Raises PreconditionError where tracked files have changes, or git is in the middle of something.

        notes: whether those count that are neither harness nor rows and that no candidate may change.
        """
        rules = self._workspace.protocol
        changed = self.changes()
        if not notes and changed:
            harness = self._workspace.harness(self._workspace.head)
            own = {FILENAME, rules.provenance.results_log.path, *rules.immutable_harness.paths, *harness}
            inside = {name: self._workspace.inside(name) for name in changed}
            changed = [
                name for name, path in inside.items() if path and (path in own or rules.mutable_surface.allows(path))
            ]
        if changed:
            shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise PreconditionError(
                f"the working tree has uncommitted changes ({shown}): commit them, or `git stash` them, then run again"
            )
        for name in ("MERGE_HEAD", "rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD", "BISECT_LOG"):
            if (self._git.folder / name).exists():
                raise PreconditionError(
                    f"git is in the middle of something ({name}): finish or abort it, then run again"
                )

    def start_branch(self, branch: str, at: str) -> None:
        """Make a branch at a commit and check it out."""
        self._git.run("checkout", "--quiet", "-b", branch, at)

    def switch(self, branch: str) -> None:
        if self.branch != branch:
            self._git.run("checkout", "--quiet", branch, "--")

    def advance(self, branch: str, new: str, old: str) -> list[str]:
        """Move `branch` from `old` to `new`, with the checkout where that is on it. Returns what stays a person's.

        Of the files that differ between both, those with the content of either are the loop's and get the new one, in
        the working tree and in the index; another content is a person's edit, which stays. Doing it again, after it was
        cut off anywhere, comes to the same. All is made ready first, so that the checkout is only for the time of some
        renames between the two.
        """
        # Git moves it from there alone: a commit that a person makes in this moment is an error, and is not lost.
        at = self._workspace.resolve(f"refs/heads/{branch}")
        at = at if at in (old, new) else old
        if self.branch != branch:
            self._git.run("update-ref", f"refs/heads/{branch}", new, at)
            return []
        before, after, staged = self._workspace.tree(old), self._workspace.tree(new), self._workspace.staged()
        changed = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
        seen = {path: self._written(path) for path in changed}
        theirs = [path for path in changed if not self._is_ours(path, before.get(path), after.get(path))]
        entries = [path for path in changed if staged.get(path) in (before.get(path), after.get(path))]
        with tempfile.TemporaryDirectory(dir=self._git.folder, prefix="autoresearch-") as scratch:
            parts = {
                path: self._part(path, new, Path(scratch)) for path in changed if path in after and path not in theirs
            }
            try:
                index = self._index_with(Path(scratch) / "index", {path: after.get(path) for path in entries}, len(new))
                with self._moving(branch, new, at):
                    for path in changed:
                        if path in theirs:
                            continue
                        if self._written(path) != seen[path]:  # a person has written there meanwhile
                            theirs.append(path)
                        elif path in parts:
                            parts.pop(path).replace(self._workspace.top / path)
                        else:
                            (self._workspace.top / path).unlink(missing_ok=True)
                    index.replace(self._git.folder / "index")
            finally:
                for part in parts.values():
                    part.unlink(missing_ok=True)
        return theirs

    def sweep(self) -> None:
        """Remove what an `advance` that was killed has left in git's own folder."""
        for left in self._git.folder.glob("autoresearch-*"):
            shutil.rmtree(left, ignore_errors=True)

    def heal(self, files: Iterable[str], commits: Iterable[str]) -> list[str]:
        """Restore what a loop that was killed left half done: `files` that hold (a beginning of) what one of `commits`
        has in them.

        Anything else in them, text or not, is the person's own work and stays. Returns the names of those that were
        not as in HEAD.
        """
        before = self.changes()
        known = [commit for commit in dict.fromkeys(commits) if commit]
        for path in files:
            target = self._workspace.folder / path
            found = target.read_bytes() if target.is_file() and not target.is_symlink() else b""
            if any((self._workspace.content(commit, path) or b"").startswith(found) for commit in known):
                self._restore(path)
        return sorted({*before} - {*self.changes()})

    def exclude(self, patterns: Iterable[str]) -> None:
        """Keep the loop's own files out of the person's `git status`, where .gitignore does not do so already."""
        exclude = Path(self._git.run("rev-parse", "--path-format=absolute", "--git-path", "info/exclude"))
        present = exclude.read_text().splitlines() if exclude.exists() else []
        missing = self._not_ignored([pattern for pattern in patterns if pattern not in present])
        if missing:
            exclude.parent.mkdir(exist_ok=True)
            exclude.write_text("\n".join([*present, *missing]) + "\n")

    # Inside

    def _is_ours(self, path: str, *entries: tuple[str, str] | None) -> bool:
        """Return whether the working tree has at `path` what one of the entries says."""
        file = self._workspace.top / path
        if not os.path.lexists(file):
            return None in entries
        if file.is_symlink() or not file.is_file():
            return False
        ours = [entry[1] for entry in entries if entry is not None]
        # Git need only be asked where its filters stand between the file and the blob.
        return (
            _blob_of(file, len(ours[0])) in ours
            or self._git.run("hash-object", f"--path={path}", "--", str(file)) in ours
        )

    def _written(self, path: str) -> tuple[int, ...] | None:
        """What changes with every write to a file of the checkout; None where there is none."""
        try:
            found = (self._workspace.top / path).lstat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _part(self, path: str, commit: str, scratch: Path) -> Path:
        """What `commit` has at `path`, as the checkout wants it, in a file that a rename can put there."""
        target = self._workspace.top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        # A person's filters run as the person's own git runs them.
        content = self._git.fed(["cat-file", "--filters", f"{commit}:{path}"], b"", own_language())
        mode = 0o755 if self._workspace.tree(commit)[path][0] == "100755" else 0o644
        same_disk = scratch.stat().st_dev == target.parent.stat().st_dev
        descriptor, name = tempfile.mkstemp(suffix=".part", dir=scratch if same_disk else target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), target.stat().st_mode & 0o777 if target.exists() else mode)
        return Path(name)

    def _index_with(self, scratch: Path, entries: Mapping[str, tuple[str, str] | None], digits: int) -> Path:
        """A copy of the index with these entries; None takes one away. digits: how long a hash is here."""
        with contextlib.suppress(FileNotFoundError):
            scratch.write_bytes((self._git.folder / "index").read_bytes())
        said = "".join(
            f"{entry[0]} {entry[1]}\t{path}\0" if entry else f"0 {'0' * digits}\t{path}\0"
            for path, entry in entries.items()
        )
        if said:
            self._git.fed(["update-index", "-z", "--index-info"], os.fsencode(said), {"GIT_INDEX_FILE": str(scratch)})
        return scratch

    @contextlib.contextmanager
    def _moving(self, branch: str, new: str, old: str) -> Iterator[None]:
        """Move the branch at the end of the block: git has all ready for it at its beginning."""
        mover = subprocess.Popen(
            [*GIT, "update-ref", "--stdin"],
            cwd=self._workspace.top,
            env=self._git.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert mover.stdin is not None and mover.stdout is not None
        said = ""
        try:
            with contextlib.suppress(BrokenPipeError):
                mover.stdin.write(f"start\nupdate refs/heads/{branch} {new} {old}\nprepare\n")
                mover.stdin.flush()
                said = mover.stdout.readline() + mover.stdout.readline()
            if "prepare: ok" in said:
                yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                mover.stdin.write("commit\n" if "prepare: ok" in said else "abort\n")
                mover.stdin.flush()
            _, errors = mover.communicate()
        if "prepare: ok" not in said or mover.returncode != 0:
            raise AutoresearchError(
                f"`git update-ref` failed in {self._workspace.top}: {' '.join(errors.split()) or mover.returncode}"
            )

    def _restore(self, path: str) -> None:
        """Give a file in the index and in the working tree the content that HEAD has."""
        name = self._workspace.in_repository(path)
        if self._git.run("ls-tree", "--name-only", "--full-tree", self._workspace.head, "--", name):
            self._git.run("checkout", "--quiet", self._workspace.head, "--", name)
        else:
            self._git.run("rm", "--quiet", "--cached", "--ignore-unmatch", "--", name)
            (self._workspace.folder / path).unlink(missing_ok=True)

    def _not_ignored(self, paths: list[str]) -> list[str]:
        """Those of `paths`, relative to the workspace, that git would show as untracked."""
        # A rule for a folder applies to what is none yet by the slash at its end; no name is magic after a dot.
        names = {path: f"./{self._workspace.in_repository(path)}{'/' * path.endswith('/')}" for path in paths}
        ignored = b""
        if names:
            with contextlib.suppress(AutoresearchError):  # its exit code says that there is none
                said = os.fsencode("".join(f"{name}\0" for name in names.values()))
                ignored = self._git.fed(["check-ignore", "-z", "--stdin", "--no-index"], said, {LITERAL: "0"})
        return [path for path, name in names.items() if os.fsencode(name) not in ignored.split(b"\0")]


def _blob_of(file: Path, digits: int) -> str:
    """The name of the blob with exactly these bytes (gitformat-pack(5), object headers).

    digits: how long the names are, 40, or 64 where they are of SHA-256.
    """
    try:
        content = file.read_bytes()
    except OSError:
        return ""  # git says why
    algorithm = hashlib.sha1 if digits == 40 else hashlib.sha256
    return algorithm(b"blob %d\0" % len(content) + content).hexdigest()
