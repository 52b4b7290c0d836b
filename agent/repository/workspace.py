"""Git: the session's branch, candidates, keeping and discarding. The only module that touches git.

A candidate is a commit from the moment it exists, made without index and working tree and without moving the branch:
`refs/autoresearch/<tag>/<number>` keeps it for ever. The branch moves once an experiment, to a commit that holds the
incumbent and the new row of the results, and takes the person's checkout along where that is theirs to follow.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from agent.errors import AutoresearchError, PreconditionError, Violation
from agent.protocol.models import FILENAME, Protocol
from agent.repository.git import GIT, LITERAL, Git
from agent.repository.harness import HarnessFiles
from agent.source.encoding import decoded, encoded

MOST_TREES = 8
SUBMODULE = "160000"
NO_COMMIT = "Needed a single revision"  # git's own words: GitPython asks for them in English


class Workspace:
    """The folder with protocol.json, inside a git repository (at its top or below)."""

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        self.folder = folder.resolve()
        self._protocol = protocol
        self._git = Git(self.folder)
        self.top = self._git.top
        self._prefix = PurePosixPath(self.folder.relative_to(self.top).as_posix())
        self._short: dict[str, str] = {}
        self._trees: dict[str, dict[str, tuple[str, str]]] = {}
        self._harness = HarnessFiles(protocol, self._inside_tree, self._blobs)

    def close(self) -> None:
        self._git.close()

    # What there is

    @property
    def prefix(self) -> str:
        """Where the workspace lies in its repository: `.` at the top."""
        return str(self._prefix)

    @property
    def head(self) -> str:
        try:
            return self._git.run("rev-parse", "--verify", "HEAD")
        except AutoresearchError as error:
            if NO_COMMIT not in str(error):
                raise
            raise PreconditionError(
                f"{self.top} has no commit yet: `git add` what belongs to it and commit, then run again"
            ) from None

    @property
    def branch(self) -> str | None:
        """The branch that is checked out; None for a detached HEAD."""
        try:
            # Not the short name, which is another where a tag is called like the branch.
            return self._git.run("symbolic-ref", "--quiet", "HEAD").removeprefix("refs/heads/")
        except AutoresearchError:
            return None

    def resolve(self, name: str) -> str | None:
        """The commit that a ref or a hash stands for; None where there is no such commit."""
        try:
            return self._git.run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except AutoresearchError:
            return None

    @property
    def author(self) -> str | None:
        """`Name <address>` as the person has configured it; None where either is missing."""
        name, address = self._git.configured("user.name"), self._git.configured("user.email")
        return f"{name} <{address}>" if name and address else None

    def changes(self) -> list[str]:
        """Tracked files that differ from HEAD. Untracked files are the person's own and do not count."""
        status = self._git.run("status", "--porcelain", "--untracked-files=no", "-z", "--no-renames")
        return [entry[3:] for entry in status.split("\0") if entry]

    def is_tracked(self, path: str) -> bool:
        return bool(self._git.run("ls-files", "--", self.in_repository(path)))

    def files(self, commit: str) -> dict[str, str]:
        """path -> text of every file that a candidate may change, as `commit` has it.

        No symbolic link is one: what git keeps of it is where it leads, and a program's text leads nowhere.
        """
        wanted = {
            path: blob
            for path, (mode, blob) in self._inside_tree(commit).items()
            if mode.startswith("100") and self._may_change(commit, path)
        }
        contents = self._blobs([*wanted.values()])
        texts = {}
        for path, blob in wanted.items():
            with contextlib.suppress(UnicodeError):  # a binary file is no text to edit
                texts[path] = decoded(path, contents[blob])
        return texts

    def edited(self) -> list[str]:
        """Files that a candidate may change and that a person has changed in the checkout."""
        names = [inside for name in self.changes() if (inside := self._inside(name))]
        head = self.head if names else ""
        return [name for name in names if self._may_change(head, name)]

    def harness(self, commit: str) -> frozenset[str]:
        """Return the files of the harness in `commit`, with the modules that they import."""
        return self._harness.of(commit)

    def harness_digest(self, commit: str) -> str:
        """Return a SHA-256 over paths and contents of those files."""
        return self._harness.digest(commit)

    def refusal(self, parent: str, paths: Iterable[str]) -> str | None:
        """Say why no candidate on top of `parent` may have others at `paths`: "changes a.py, which ..."; else None."""
        for path in paths:
            inside = (self.folder / path).resolve().is_relative_to(self.folder)
            if not inside or not self._protocol.mutable_surface.allows(path):
                return f"changes {path}, which mutableSurface does not allow"
        return self._harness.refusal(parent, paths)

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
                self._git.run("merge-file", "--quiet", *map(str, paths))
            except AutoresearchError:
                return None  # its exit code is the number of conflicts
            return _read(paths[0])

    def diff(self, old: str, new: str) -> str:
        """The unified diff of the workspace from one commit to another, the results left out."""
        results = f":(top,exclude,literal){self.in_repository(self._protocol.provenance.results_log.path)}"
        here = f":(top,literal){'' if self.prefix == '.' else self.prefix}"
        plain = ("diff", "--no-color", "--no-ext-diff", "--no-textconv")
        return self._git.run(*plain, old, new, "--", here, results, env={LITERAL: "0"})

    def export(self, folder: Path, commit: str | None = None) -> Path:
        """Write every file of `commit`, by default HEAD, below `folder`. Returns the workspace there.

        What is the same in the checkout keeps its time of change: builds go by that.
        """
        commit = commit or self.head
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self._git.run("read-tree", commit, env=index)
            self._git.run("checkout-index", "--all", f"--prefix={folder}/", env=index)
        for path, (mode, blob) in self._staged().items():
            if self._tree(commit).get(path) == (mode, blob):
                with contextlib.suppress(OSError):
                    there = (self.top / path).lstat()
                    os.utime(folder / path, ns=(there.st_atime_ns, there.st_mtime_ns), follow_symlinks=False)
        (folder / self._prefix).mkdir(parents=True, exist_ok=True)
        return folder / self._prefix

    def results(self, commit: str) -> str:
        """What the file of the results holds in `commit`; empty where there is none."""
        return self.show(commit, self._protocol.provenance.results_log.path) or ""

    def untracked(self) -> list[str]:
        """Files and folders of the repository that git does not track, ignored ones too, relative to its top."""
        return [name.rstrip("/") for name in self._git.lines("ls-files", "-z", "--others", "--directory")]

    def submodules(self) -> list[str]:
        """Return where other repositories are part of this one, relative to its top."""
        return [path for path, (mode, _) in self._staged().items() if mode == SUBMODULE]

    def short(self, commit: str) -> str:
        """Seven characters, or as many more as tell it apart. Remembered: every row is written again with each."""
        if commit not in self._short:
            self._short[commit] = self._git.run("rev-parse", "--short=7", commit)
        return self._short[commit]

    # What a session does

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
        rules = self._protocol
        changed = self.changes()
        if not notes and changed:
            own = {
                FILENAME,
                rules.provenance.results_log.path,
                *rules.immutable_harness.paths,
                *self.harness(self.head),
            }
            changed = [
                name
                for name in changed
                if (inside := self._inside(name)) and (inside in own or rules.mutable_surface.allows(inside))
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

    def start_branch(self, branch: str, at: str | None = None) -> None:
        """Make a branch and check it out. at: a commit, by default what is checked out."""
        self._git.run("checkout", "--quiet", "-b", branch, at or self.head)

    def switch(self, branch: str) -> None:
        if self.branch != branch:
            self._git.run("checkout", "--quiet", branch, "--")

    def commit_candidate(self, ref: str, parent: str, files: Mapping[str, str], message: str) -> str:
        """Commit `files` on top of `parent`, kept under `ref`. Raises Violation where one of them may not change."""
        if refusal := self.refusal(parent, [*files]):
            raise Violation(f"the proposal {refusal}")
        commit = self._commit_on(parent, {path: encoded(path, text) for path, text in files.items()}, message)
        self.keep(ref, commit)
        return commit

    def commit_results(self, parent: str, text: str, message: str) -> str:
        """A commit on top of `parent` with the results in it. Nothing moves yet: `move` does that."""
        content = text.encode(errors="surrogateescape")  # rows of others are as they are
        return self._commit_on(parent, {self._protocol.provenance.results_log.path: content}, message)

    def advance(self, branch: str, new: str, old: str) -> list[str]:
        """Move `branch` from `old` to `new`, with the checkout where that is on it. Returns what stays a person's.

        Of the files that differ between both, those with the content of either are the loop's and get the new one, in
        the working tree and in the index; another content is a person's edit, which stays. Doing it again, after it was
        cut off anywhere, comes to the same. All is made ready first, so that the checkout is only for the time of some
        renames between the two.
        """
        # Git moves it from there alone: a commit that a person makes in this moment is an error, and is not lost.
        at = self.resolve(f"refs/heads/{branch}")
        at = at if at in (old, new) else old
        if self.branch != branch:
            self._git.run("update-ref", f"refs/heads/{branch}", new, at)
            return []
        before, after, staged = self._tree(old), self._tree(new), self._staged()
        changed = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
        seen = {path: self._written(path) for path in changed}
        theirs = [path for path in changed if not self._is_ours(path, before.get(path), after.get(path))]
        entries = [path for path in changed if staged.get(path) in (before.get(path), after.get(path))]
        with tempfile.TemporaryDirectory(dir=self._git.folder, prefix="autoresearch-") as scratch:
            parts = {
                path: self._part(path, new, Path(scratch)) for path in changed if path in after and path not in theirs
            }
            try:
                index = self._index_with(Path(scratch) / "index", {path: after.get(path) for path in entries})
                with self._moving(branch, new, at):
                    for path in changed:
                        if path in theirs:
                            continue
                        if self._written(path) != seen[path]:  # a person has written there meanwhile
                            theirs.append(path)
                        elif path in parts:
                            parts.pop(path).replace(self.top / path)
                        else:
                            (self.top / path).unlink(missing_ok=True)
                    index.replace(self._git.folder / "index")
            finally:
                for part in parts.values():
                    part.unlink(missing_ok=True)
        return theirs

    def sweep(self) -> None:
        """Remove what an `advance` that was killed has left in git's own folder."""
        for left in self._git.folder.glob("autoresearch-*"):
            shutil.rmtree(left, ignore_errors=True)

    def keep(self, ref: str, commit: str) -> None:
        self._git.run("update-ref", ref, commit)

    def heal(self, files: Iterable[str], commits: Iterable[str]) -> list[str]:
        """Restore what a loop that was killed left half done: `files` that hold (a beginning of) what one of `commits`
        has in them.

        Anything else in them, text or not, is the person's own work and stays. Returns the names of those that were
        not as in HEAD.
        """
        before = self.changes()
        known = [commit for commit in dict.fromkeys(commits) if commit]
        for path in files:
            target = self.folder / path
            found = target.read_bytes() if target.is_file() and not target.is_symlink() else b""
            if any((self._content(commit, path) or b"").startswith(found) for commit in known):
                self._restore(path)
        return sorted({*before} - {*self.changes()})

    def exclude(self, patterns: Iterable[str]) -> None:
        """Keep the loop's own files out of the person's `git status`, where .gitignore does not do so already."""
        exclude = Path(self._git.run("rev-parse", "--path-format=absolute", "--git-path", "info/exclude"))
        present = exclude.read_text().splitlines() if exclude.exists() else []
        missing = [pattern for pattern in patterns if pattern not in present and not self._is_ignored(pattern)]
        if missing:
            exclude.parent.mkdir(exist_ok=True)
            exclude.write_text("\n".join([*present, *missing]) + "\n")

    # Inside

    def _commit_on(self, parent: str, contents: Mapping[str, bytes], message: str) -> str:
        """Plumbing throughout: no hook, no signature prompt and no index of the person's is involved."""
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self._git.run("read-tree", parent, env=index)
            for path, content in contents.items():
                blob = Path(scratch) / "blob"
                blob.write_bytes(content)
                sha = self._git.run("hash-object", "-w", "--no-filters", "--", str(blob))
                name = self.in_repository(path)
                mode = self._git.run("ls-tree", "--full-tree", "--format=%(objectmode)", parent, "--", name) or "100644"
                self._git.run("update-index", "--add", "--cacheinfo", f"{mode},{sha},{name}", env=index)
            tree = self._git.run("write-tree", env=index)
        return self._git.run("commit-tree", tree, "-p", parent, "-m", message)

    def _content(self, commit: str, path: str) -> bytes | None:
        """What `path` holds in `commit`, or None where it has no such file, or there is no such commit.

        Raises AutoresearchError where git fails: a file that cannot be read is not one that is not there.
        """
        if commit not in self._trees and self.resolve(commit) is None:
            return None
        mode, blob = self._tree(commit).get(self.in_repository(path), (SUBMODULE, ""))
        return None if mode == SUBMODULE else self._blobs([blob])[blob]

    def in_repository(self, path: str) -> str:
        """Return the path of a file of the workspace relative to the repository's top."""
        return str(self._prefix / path)

    def _inside(self, path: str) -> str | None:
        """Relative to the workspace; None for what lies elsewhere in the repository."""
        name = PurePosixPath(path)
        return str(name.relative_to(self._prefix)) if name.is_relative_to(self._prefix) else None

    def _inside_tree(self, commit: str) -> dict[str, tuple[str, str]]:
        """The same of the workspace alone, by paths relative to it."""
        found = ((self._inside(path), entry) for path, entry in self._tree(commit).items())
        return {path: entry for path, entry in found if path}

    def _may_change(self, commit: str, path: str) -> bool:
        return self._protocol.mutable_surface.allows(path) and not self._harness.holds(commit, path)

    def _tree(self, commit: str) -> dict[str, tuple[str, str]]:
        """path -> mode and blob of all that `commit` holds. Remembered: a hash means the same for ever."""
        known = self._trees.get(commit)
        if known is None:
            known = {}
            for line in self._git.lines("ls-tree", "-r", "-z", "--full-tree", commit):
                about, _, path = line.partition("\t")
                mode, _, blob = about.split(" ")
                known[path] = (mode, blob)
            if len(commit) >= 40:  # a whole hash
                while len(self._trees) >= MOST_TREES:
                    self._trees.pop(next(iter(self._trees)))
                self._trees[commit] = known
        return known

    def _staged(self) -> dict[str, tuple[str, str]]:
        """path -> mode and blob of all that the index holds."""
        found = {}
        for line in self._git.lines("ls-files", "--stage", "-z"):
            about, _, path = line.partition("\t")
            mode, blob, _ = about.split(" ")
            found[path] = (mode, blob)
        return found

    def _is_ours(self, path: str, *entries: tuple[str, str] | None) -> bool:
        """Whether the working tree has at `path` what one of the entries says."""
        file = self.top / path
        if not os.path.lexists(file):
            return None in entries
        if file.is_symlink() or not file.is_file():
            return False
        blob = self._git.run("hash-object", f"--path={path}", "--", str(file))
        return any(entry is not None and entry[1] == blob for entry in entries)

    def _written(self, path: str) -> tuple[int, ...] | None:
        """What changes with every write to a file of the checkout; None where there is none."""
        try:
            found = (self.top / path).lstat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _part(self, path: str, commit: str, scratch: Path) -> Path:
        """What `commit` has at `path`, as the checkout wants it, in a file that a rename can put there."""
        target = self.top / path
        target.parent.mkdir(parents=True, exist_ok=True)
        content = self._git.fed(["cat-file", "--filters", f"{commit}:{path}"], "", {})
        mode = 0o755 if self._tree(commit)[path][0] == "100755" else 0o644
        same_disk = scratch.stat().st_dev == target.parent.stat().st_dev
        descriptor, name = tempfile.mkstemp(suffix=".part", dir=scratch if same_disk else target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), target.stat().st_mode & 0o777 if target.exists() else mode)
        return Path(name)

    def _index_with(self, scratch: Path, entries: Mapping[str, tuple[str, str] | None]) -> Path:
        """A copy of the index with these entries; None takes one away."""
        with contextlib.suppress(FileNotFoundError):
            scratch.write_bytes((self._git.folder / "index").read_bytes())
        said = "".join(
            f"{entry[0]} {entry[1]}\t{path}\0" if entry else f"0 {'0' * self._digits}\t{path}\0"
            for path, entry in entries.items()
        )
        if said:
            self._git.fed(["update-index", "-z", "--index-info"], said, {"GIT_INDEX_FILE": str(scratch)})
        return scratch

    @contextlib.contextmanager
    def _moving(self, branch: str, new: str, old: str) -> Iterator[None]:
        """Move the branch at the end of the block: git has all ready for it at its beginning."""
        mover = subprocess.Popen(
            [*GIT, "update-ref", "--stdin"],
            cwd=self.top,
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
                f"`git update-ref` failed in {self.top}: {' '.join(errors.split()) or mover.returncode}"
            )

    @cached_property
    def _digits(self) -> int:
        """How long a hash is here: 40, or 64 where they are of SHA-256."""
        return len(self.head)

    def _blobs(self, wanted: list[str]) -> dict[str, bytes]:
        """blob -> what it holds, all from one git (git-cat-file(1), batch output)."""
        said = self._git.fed(["cat-file", "--batch"], "".join(f"{blob}\n" for blob in wanted), {})
        found, at = {}, 0
        for blob in wanted:
            head = said.index(b"\n", at)
            size = int(said[at:head].split()[2])
            found[blob] = said[head + 1 : head + 1 + size]
            at = head + 1 + size + 1
        return found

    def _restore(self, path: str) -> None:
        """Give a file in the index and in the working tree the content that HEAD has."""
        name = self.in_repository(path)
        if self._git.run("ls-tree", "--name-only", "--full-tree", self.head, "--", name):
            self._git.run("checkout", "--quiet", self.head, "--", name)
        else:
            self._git.run("rm", "--quiet", "--cached", "--ignore-unmatch", "--", name)
            (self.folder / path).unlink(missing_ok=True)

    def _is_ignored(self, path: str) -> bool:
        try:
            return bool(self._git.run("check-ignore", "--no-index", "--", self.in_repository(path)))
        except AutoresearchError:
            return False


def nothing_may_change(protocol: Protocol) -> str:
    """Say that `Workspace.files` finds none."""
    globs = ", ".join(protocol.mutable_surface.allowed_globs)
    return (
        f"no tracked file matches allowedGlobs ({globs}) but links, files that are no text, and what forbiddenGlobs "
        "take back: commit the file to be researched, or name it there"
    )


def _read(path: Path) -> str:
    """Text with its line endings as they are."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def _write(path: Path, text: str) -> None:
    """Text with its line endings as they are."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
