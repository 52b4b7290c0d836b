"""The user's checkout, and how it follows the session's branch without losing the user's edits."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from agent.errors import AutoresearchError, PreconditionError
from agent.format import named
from agent.protocol.models import FILENAME
from agent.repository.git import GIT, LITERAL, own_language
from agent.repository.index import INDEX, holding_index, index_with, scratch_folder
from agent.repository.workspace import Workspace
from agent.source.encoding import encoded
from agent.system.files import write_whole
from agent.system.invocation import typed
from agent.system.names import PLAYBOOK


class Checkout:
    """Index and working tree of a workspace's repository. It has no state: create one wherever it is needed."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._git = workspace.git

    @property
    def branch(self) -> str | None:
        """The branch that is checked out; None for a detached HEAD."""
        # The short name is different if a tag has the same name as the branch.
        ref = self._git.asked("symbolic-ref", "--quiet", "HEAD")
        return None if ref is None else ref.removeprefix("refs/heads/")

    def changes(self) -> list[str]:
        """Return the tracked files that differ from HEAD. Untracked files belong to the user and do not count."""
        status = self._git.run("status", "--porcelain", "--untracked-files=no", "-z", "--no-renames")
        return [entry[3:] for entry in status.split("\0") if entry]

    def edited(self) -> list[str]:
        """Return the files that a candidate may change and that the user has changed in the checkout."""
        names = [inside for name in self.changes() if (inside := self._workspace.inside(name))]
        head = self._workspace.head if names else ""
        return [name for name in names if self._workspace.may_change(head, name)]

    def require_free(self, branch: str, refs: str, own: Collection[str] = ()) -> None:
        """Raise PreconditionError if git could not create `branch`, or if `refs` already keeps commits.

        Args:
            branch: its name.
            refs: the folder of the session's refs.
            own: refs in it that belong to the session: those of edits that wait for its start.
        """
        full = f"refs/heads/{branch}"
        try:
            self._git.run("check-ref-format", full)
        except AutoresearchError:
            raise PreconditionError(
                f"{branch!r} is not a valid branch name", hint="choose another --tag or branchPattern"
            ) from None
        # On a case-insensitive disk, refs that differ only in case are the same.
        same = str.casefold if self._git.configured("core.ignorecase") == "true" else str
        for ref in self._git.run("for-each-ref", "--format=%(refname)").splitlines():
            found, kind = same(ref), ref.removeprefix("refs/heads/")
            if found == same(full):
                raise PreconditionError(
                    f"the branch {kind} exists, but no session here belongs to it",
                    hint=f"choose another --tag, or delete the branch with `git branch -D {kind}`",
                )
            if same(full).startswith(f"{found}/") or found.startswith(f"{same(full)}/"):
                raise PreconditionError(
                    f"git cannot create the branch {branch} while {kind} exists",
                    hint=f"rename {kind} with `git branch -m {kind} NAME`, or choose another --tag",
                )
            if same(refs).startswith(f"{found}/") or found == same(refs):
                raise PreconditionError(
                    f"git cannot create the ref {refs}/1 while {ref} exists",
                    hint=f"rename {ref}, or choose another --tag",
                )
            if found.startswith(f"{same(refs)}/") and ref not in own:
                raise PreconditionError(
                    f"{ref} keeps an experiment of a session that no longer exists here",
                    hint="choose another --tag, or delete the session's refs with "
                    f"`git for-each-ref --format='delete %(refname)' {refs}/ | git update-ref --stdin`",
                )

    def require_clean(self, *, notes: bool = True, but: Collection[str] = ()) -> None:
        """Raise PreconditionError if tracked files have uncommitted changes or a git operation is unfinished.

        Args:
            notes: whether files count that are neither mutable nor part of protocol, harness or results.
            but: files that do not count, relative to the workspace.
        """
        rules = self._workspace.protocol
        changed = [name for name in self.changes() if self._workspace.inside(name) not in but]
        if not notes and changed:
            harness = self._workspace.harness(self._workspace.head)
            own = {FILENAME, rules.provenance.results_log.path, *rules.immutable_harness.paths, *harness}
            inside = {name: self._workspace.inside(name) for name in changed}
            changed = [
                name for name, path in inside.items() if path and (path in own or rules.mutable_surface.allows(path))
            ]
        if changed:
            shown = named(changed, 3)
            mine = {*changed} <= {*self.edited()}
            do = f"measure the edit with `{typed('try')}`, or commit" if mine else "commit"
            raise PreconditionError(
                f"the working tree has uncommitted changes ({shown})",
                hint=f"{do} or `git stash` {'it' if mine else 'them'}, then run the same command again",
            )
        self.require_no_operation()

    def carried(self, commit: str) -> tuple[str, ...]:
        """Return the playbook if its uncommitted changes do not count for a checkout of `commit`: git keeps them."""
        name, workspace = self._workspace.in_repository(PLAYBOOK), self._workspace
        same = workspace.tree(workspace.head).get(name) == workspace.tree(commit).get(name)
        return (PLAYBOOK,) if same and PLAYBOOK in workspace.records else ()

    def require_no_operation(self) -> None:
        """Raise PreconditionError if a merge, rebase, cherry-pick or bisect is unfinished."""
        for name in ("MERGE_HEAD", "rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD", "BISECT_LOG"):
            if (self._git.folder / name).exists():
                raise PreconditionError(
                    f"git is in the middle of a merge, rebase, cherry-pick or bisect ({name})",
                    hint="finish or abort it, then run the same command again",
                )

    def start_branch(self, branch: str, at: str, *, switch: bool = True) -> None:
        """Create a branch at a commit, and check it out unless the checkout has to stay where it is."""
        if switch:
            self._git.run("checkout", "--quiet", "-b", branch, at)
        else:
            self._git.run("update-ref", f"refs/heads/{branch}", at, "0" * len(at))

    def uncommit(self, branch: str, new: str, old: str) -> None:
        """Move `branch` from `old` back to `new`, and leave index and working tree as they are."""
        self._git.run("update-ref", f"refs/heads/{branch}", new, old)

    def elsewhere(self, branch: str) -> Path | None:
        """Return the other working tree of the repository that has `branch` checked out; None if none has."""
        place = None
        for line in self._git.run("worktree", "list", "--porcelain").split("\n"):  # git 2.36 and later know -z
            if line.startswith("worktree "):
                place = Path(line.removeprefix("worktree "))
            elif line == f"branch refs/heads/{branch}" and place and place.resolve() != self._workspace.top:
                return place
        return None

    def require_unedited(self, branch: str, files: Mapping[str, str]) -> None:
        """Raise PreconditionError if `branch` is checked out somewhere with changes, or in another working tree.

        An untracked file counts if it is in the way of a new one.

        Args:
            files: path -> text that an interrupted commit may have left in the checkout, which is no change.
        """
        other = self.elsewhere(branch)
        if other is not None:
            raise PreconditionError(
                f"{branch} is checked out in {other}", hint="run the same command there, or choose another --onto"
            )
        if self.branch != branch:
            return
        if not self._is_left_over(files):
            self.require_clean()
        tracked = self._workspace.tree(self._workspace.head)
        for path in sorted(files):
            if self._workspace.in_repository(path) in tracked:
                continue
            there = self._in_the_way(path, files[path])
            if there is not None:
                raise PreconditionError(
                    f"the working tree has another {there}, which git does not track",
                    hint="move it away, then run the same command again",
                )

    def _in_the_way(self, path: str, text: str) -> str | None:
        """Return what the working tree has where a new file belongs, or where a folder of it does; else None."""
        file = self._workspace.folder / path
        for folder in reversed(PurePosixPath(path).parents[:-1]):
            there = self._workspace.folder / folder
            if there.is_symlink() or (there.exists() and not there.is_dir()):
                return str(folder)
        return path if os.path.lexists(file) and not self._would_commit(path, text) else None

    def _is_left_over(self, files: Mapping[str, str]) -> bool:
        changed = [self._workspace.inside(name) for name in self.changes()]
        return bool(changed) and all(
            path is not None and path in files and self._text(path) == encoded(path, files[path]) for path in changed
        )

    def _would_commit(self, path: str, text: str) -> bool:
        """Return whether git would commit a file of the working tree as this text, after its filters."""
        file, content = self._workspace.folder / path, encoded(path, text)
        if file.is_symlink() or not file.is_file():
            return False
        return (
            self._text(path) == content or self._workspace.as_committed(self._workspace.in_repository(path)) == content
        )

    def _text(self, path: str) -> bytes | None:
        file = self._workspace.folder / path
        return file.read_bytes() if file.is_file() and not file.is_symlink() else None

    def switch(self, branch: str) -> None:
        if self.branch != branch:
            self._git.run("checkout", "--quiet", branch, "--")

    def advance(self, branch: str, new: str, old: str, keep: Collection[str] = ()) -> list[str]:
        """Move `branch` from `old` to `new`, and the checkout with it if it is on that branch.

        Of the files that differ between the two commits, those with the content of either belong to the loop and get
        the new content, in the working tree and in the index. Any other content is an edit of the user's and stays.
        Everything is prepared first, so that the checkout is in between the two commits only for a few renames. An
        interrupted call can be repeated with the same result.

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
            self._git.run("update-ref", f"refs/heads/{branch}", new, at)
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
                    with self._moving(branch, new, at):
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

        These are the `files` whose content equals, or is the beginning of, their content in one of `commits`. Any other
        content is the user's own work and stays. A file that HEAD lacks is removed only if it equals one of these.

        Returns:
            Those that were untracked, and are removed.
        """
        removed, head = list[str](), self._workspace.head
        known = [commit for commit in dict.fromkeys(commits) if commit]
        for path in files:
            target = self._workspace.folder / path
            if target.is_symlink() or (target.exists() and not target.is_file()):
                continue  # the loop makes neither links nor folders there
            found, is_there = target.read_bytes() if target.exists() else b"", target.exists()
            contents = [self._workspace.content(commit, path) or b"" for commit in known]
            if self._workspace.content(head, path) is None:
                if is_there and found and found in contents:
                    self._restore(path)
                    removed.append(path)
            elif any(content.startswith(found) for content in contents):
                self._restore(path)
        return removed

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

    def exclude(self, paths: Iterable[str]) -> None:
        """Keep the loop's own files out of the user's `git status`, unless .gitignore does so already.

        Args:
            paths: relative to the workspace; a folder ends with a slash.
        """
        exclude = self._git.top / self._git.run("rev-parse", "--git-path", "info/exclude")
        present = exclude.read_bytes() if exclude.exists() else b""
        # From the top, since other folders may have a run.log of the user's own.
        wanted = self._not_ignored([*paths])
        anchored = [f"/{_escaped(self._workspace.in_repository(path))}{'/' * path.endswith('/')}" for path in wanted]
        missing = [pattern for pattern in anchored if os.fsencode(pattern) not in present.splitlines()]
        if missing:
            exclude.parent.mkdir(exist_ok=True)
            between = b"" if present.endswith(b"\n") or not present else b"\n"
            # Whole, since it holds the user's own patterns, and where a link leads, since that is the user's as well.
            write_whole(exclude.resolve(), present + between + os.fsencode("\n".join(missing) + "\n"))

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

    @contextlib.contextmanager
    def _moving(self, branch: str, new: str, old: str) -> Iterator[None]:
        """Lock and check the branch for a move at the beginning of the block, and move it at the end."""
        mover = subprocess.Popen(
            [*GIT, "update-ref", "--stdin"],
            cwd=self._workspace.top,
            env=self._git.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C would otherwise end it between its two steps
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
            words = " ".join(errors.split()) or f"exit code {mover.returncode}"
            raise AutoresearchError(f"`git update-ref` failed in {self._workspace.top}: {words}")

    def _restore(self, path: str) -> None:
        """Reset a file in the index and in the working tree to its content in HEAD."""
        name = self._workspace.in_repository(path)
        if self._git.run("ls-tree", "--name-only", "--full-tree", self._workspace.head, "--", name):
            self._git.run("checkout", "--quiet", self._workspace.head, "--", name)
        else:
            self._git.run("rm", "--quiet", "--cached", "--ignore-unmatch", "--", name)
            (self._workspace.folder / path).unlink(missing_ok=True)

    def _not_ignored(self, paths: list[str]) -> list[str]:
        """Return those of `paths`, relative to the workspace, that git would show as untracked."""
        # With a trailing slash, rules for folders also match a folder that does not exist yet; the leading `./` keeps
        # git from reading pathspec magic into a name.
        names = {path: f"./{self._workspace.in_repository(path)}{'/' * path.endswith('/')}" for path in paths}
        ignored = b""
        if names:
            with contextlib.suppress(AutoresearchError):  # git exits with 1 if none is ignored
                said = os.fsencode("".join(f"{name}\0" for name in names.values()))
                ignored = self._git.fed(["check-ignore", "-z", "--stdin", "--no-index"], said, {LITERAL: "0"})
        return [path for path, name in names.items() if os.fsencode(name) not in ignored.split(b"\0")]


def _escaped(name: str) -> str:
    """Return the pattern of gitignore(5) that only this name matches."""
    return re.sub(r"([*?\[\\ ])", r"\\\1", name)


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
