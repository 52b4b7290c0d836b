"""The workspace as its commits have it: the files in them, and the commits of candidates and of results.

A candidate is a commit from the moment it exists, made without index and working tree and without moving the branch:
`refs/autoresearch/<tag>/<number>` keeps it for ever. The branch moves once an experiment, to a commit that holds the
incumbent and the new row of the results: `agent.repository.checkout` does that.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from agent.errors import AutoresearchError, PreconditionError, Violation
from agent.protocol.models import Protocol
from agent.repository.git import LITERAL, Git
from agent.repository.harness import HarnessFiles
from agent.source.encoding import decoded, encoded
from agent.system.memory import remember

MOST_TREES, MOST_BLOBS, LARGEST_REMEMBERED = 8, 64, 2**16
SUBMODULE = "160000"
NO_COMMIT = "Needed a single revision"  # git's own words


class Workspace:
    """The folder with protocol.json, inside a git repository (at its top or below).

    git: for this room alone.
    """

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        self.folder = folder.resolve()
        self.protocol = protocol
        self.git = Git(self.folder)
        self.top = self.git.top
        self._prefix = PurePosixPath(self.folder.relative_to(self.top).as_posix())
        self._short: dict[str, str] = {}
        self._trees: dict[str, dict[str, tuple[str, str]]] = {}
        self._contents: dict[str, bytes] = {}
        self._harness = HarnessFiles(protocol, self._inside_tree, self._blobs)

    # What there is

    @property
    def prefix(self) -> str:
        """Where the workspace lies in its repository: `.` at the top."""
        return str(self._prefix)

    @property
    def head(self) -> str:
        try:
            return self.git.run("rev-parse", "--verify", "HEAD")
        except AutoresearchError as error:
            if NO_COMMIT not in str(error):
                raise
            raise PreconditionError(
                f"{self.top} has no commit yet: `git add` what belongs to it and commit, then run again"
            ) from None

    def resolve(self, name: str) -> str | None:
        """The commit that a ref or a hash stands for; None where there is no such commit."""
        try:
            return self.git.run("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except AutoresearchError:
            return None

    @property
    def author(self) -> str | None:
        """`Name <address>` as the person has configured it; None where either is missing."""
        user = self.git.user
        return f"{user['name']} <{user['email']}>" if len(user) == 2 else None

    def is_tracked(self, path: str) -> bool:
        return bool(self.git.run("ls-files", "--", self.in_repository(path)))

    def files(self, commit: str) -> dict[str, str]:
        """path -> text of every file that a candidate may change, as `commit` has it.

        No symbolic link is one: what git keeps of it is where it leads, and a program's text leads nowhere.
        """
        wanted = {
            path: blob
            for path, (mode, blob) in self._inside_tree(commit).items()
            if mode.startswith("100") and self.may_change(commit, path)
        }
        contents = self._blobs([*wanted.values()])
        texts = {}
        for path, blob in wanted.items():
            with contextlib.suppress(UnicodeError):  # a binary file is no text to edit
                texts[path] = decoded(path, contents[blob])
        return texts

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
            if not inside or not self.protocol.mutable_surface.allows(path):
                return f"changes {path}, which mutableSurface does not allow"
        return self._harness.refusal(parent, paths)

    def show(self, commit: str, path: str) -> str | None:
        """The text of `path` in `commit`, or None where it has no such file."""
        content = self.content(commit, path)
        return None if content is None else content.decode(errors="surrogateescape")

    def without(self, text: str, after: str, before: str) -> str | None:
        """`text` with the change from `before` to `after` taken back; None where later changes stand in the way."""
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(scratch) / name for name in ("text", "after", "before")]
            for path, content in zip(paths, (text, after, before), strict=True):
                _write(path, content)
            try:
                self.git.run("merge-file", "--quiet", *map(str, paths))
            except AutoresearchError:
                return None  # its exit code is the number of conflicts
            return _read(paths[0])

    def diff(self, old: str, new: str) -> str:
        """The unified diff of the workspace from one commit to another, the results left out."""
        results = f":(top,exclude,literal){self.in_repository(self.protocol.provenance.results_log.path)}"
        here = f":(top,literal){'' if self.prefix == '.' else self.prefix}"
        plain = ("diff", "--no-color", "--no-ext-diff", "--no-textconv")
        return self.git.run(*plain, old, new, "--", here, results, env={LITERAL: "0"})

    def export(self, folder: Path, commit: str | None = None) -> Path:
        """Write every file of `commit`, by default HEAD, below `folder`. Returns the workspace there.

        What is the same in the checkout keeps its time of change: builds go by that.
        """
        commit = commit or self.head
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self.git.run("read-tree", commit, env=index)
            self.git.run("checkout-index", "--all", f"--prefix={folder}/", env=index)
        for path, (mode, blob) in self.staged().items():
            if self.tree(commit).get(path) == (mode, blob):
                with contextlib.suppress(OSError):
                    there = (self.top / path).lstat()
                    os.utime(folder / path, ns=(there.st_atime_ns, there.st_mtime_ns), follow_symlinks=False)
        (folder / self._prefix).mkdir(parents=True, exist_ok=True)
        return folder / self._prefix

    def results(self, commit: str) -> str:
        """What the file of the results holds in `commit`; empty where there is none."""
        return self.show(commit, self.protocol.provenance.results_log.path) or ""

    def untracked(self) -> list[str]:
        """Files and folders of the repository that git does not track, ignored ones too, relative to its top."""
        return [name.rstrip("/") for name in self.git.lines("ls-files", "-z", "--others", "--directory")]

    def submodules(self) -> list[str]:
        """Return where other repositories are part of this one, relative to its top."""
        return [path for path, (mode, _) in self.staged().items() if mode == SUBMODULE]

    def short(self, commit: str) -> str:
        """Seven characters, or as many more as tell it apart. Remembered: every row is written again with each."""
        if commit not in self._short:
            self._short[commit] = self.git.run("rev-parse", "--short=7", commit)
        return self._short[commit]

    # What a session does

    def commit_candidate(self, ref: str, parent: str, files: Mapping[str, str], message: str) -> str:
        """Commit `files` on top of `parent`, kept under `ref`. Raises Violation where one of them may not change."""
        if refusal := self.refusal(parent, [*files]):
            raise Violation(f"the proposal {refusal}")
        commit = self._commit_on(parent, {path: encoded(path, text) for path, text in files.items()}, message)
        self.keep(ref, commit)
        return commit

    def commit_results(self, parent: str, text: str, message: str) -> str:
        """A commit on top of `parent` with the results in it. Nothing moves yet: `Checkout.advance` does that."""
        content = text.encode(errors="surrogateescape")  # rows of others are as they are
        return self._commit_on(parent, {self.protocol.provenance.results_log.path: content}, message)

    def keep(self, ref: str, commit: str) -> None:
        self.git.run("update-ref", ref, commit)

    # What a checkout asks

    def content(self, commit: str, path: str) -> bytes | None:
        """What `path` holds in `commit`, or None where it has no such file, or there is no such commit.

        Raises AutoresearchError where git fails: a file that cannot be read is not one that is not there.
        """
        if commit not in self._trees and self.resolve(commit) is None:
            return None
        mode, blob = self.tree(commit).get(self.in_repository(path), (SUBMODULE, ""))
        return None if mode == SUBMODULE else self._blobs([blob])[blob]

    def in_repository(self, path: str) -> str:
        """Return the path of a file of the workspace relative to the repository's top."""
        return str(self._prefix / path)

    def inside(self, path: str) -> str | None:
        """Relative to the workspace; None for what lies elsewhere in the repository."""
        name = PurePosixPath(path)
        return str(name.relative_to(self._prefix)) if name.is_relative_to(self._prefix) else None

    def _inside_tree(self, commit: str) -> dict[str, tuple[str, str]]:
        """The same of the workspace alone, by paths relative to it."""
        above = "" if self.prefix == "." else f"{self.prefix}/"
        return {path[len(above) :]: entry for path, entry in self.tree(commit).items() if path.startswith(above)}

    def may_change(self, commit: str, path: str) -> bool:
        return self.protocol.mutable_surface.allows(path) and not self._harness.holds(commit, path)

    def tree(self, commit: str) -> dict[str, tuple[str, str]]:
        """path -> mode and blob of all that `commit` holds. Remembered: a hash means the same for ever."""
        known = self._trees.get(commit)
        if known is None:
            known = {}
            for line in self.git.lines("ls-tree", "-r", "-z", "--full-tree", commit):
                about, _, path = line.partition("\t")
                mode, _, blob = about.split(" ")
                known[path] = (mode, blob)
            if len(commit) >= 40:  # a whole hash
                remember(self._trees, commit, known, MOST_TREES)
        return known

    def staged(self) -> dict[str, tuple[str, str]]:
        """path -> mode and blob of all that the index holds."""
        found = {}
        for line in self.git.lines("ls-files", "--stage", "-z"):
            about, _, path = line.partition("\t")
            mode, blob, _ = about.split(" ")
            found[path] = (mode, blob)
        return found

    # Inside

    def _commit_on(self, parent: str, contents: Mapping[str, bytes], message: str) -> str:
        """Plumbing throughout: no hook, no signature prompt and no index of the person's is involved."""
        entries = dict(self.tree(parent))
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self.git.run("read-tree", parent, env=index)
            for path, content in contents.items():
                blob = self.git.fed(["hash-object", "-w", "--stdin"], content, {}).decode().strip()
                name = self.in_repository(path)
                entries[name] = (entries[name][0] if name in entries else "100644", blob)
                # Unlike --index-info, this refuses a file where there is a folder, and the other way round.
                self.git.run("update-index", "--add", "--cacheinfo", f"{entries[name][0]},{blob},{name}", env=index)
            tree = self.git.run("write-tree", env=index)
        commit = self.git.run("commit-tree", tree, "-p", parent, "-m", message)
        remember(self._trees, commit, entries, MOST_TREES)
        return commit

    def _blobs(self, wanted: list[str]) -> dict[str, bytes]:
        """blob -> what it holds, all from one git (git-cat-file(1), batch output).

        Small ones are remembered: a name means the same for ever.
        """
        found = {blob: self._contents[blob] for blob in wanted if blob in self._contents}
        missing = [blob for blob in dict.fromkeys(wanted) if blob not in found]
        if not missing:
            return found
        said = self.git.fed(["cat-file", "--batch"], "".join(f"{blob}\n" for blob in missing).encode(), {})
        at = 0
        for blob in missing:
            head = said.index(b"\n", at)
            about = said[at:head].split()
            if len(about) != 3:
                raise AutoresearchError(f"git has no content for {blob[:12]} here: run `git fsck`, then fetch it")
            end = head + 1 + int(about[2])
            found[blob] = said[head + 1 : end]
            at = end + 1
            if len(found[blob]) <= LARGEST_REMEMBERED:
                remember(self._contents, blob, found[blob], MOST_BLOBS)
        return found


def nothing_may_change(protocol: Protocol) -> str:
    """Say that `Workspace.files` finds none."""
    globs = ", ".join(protocol.mutable_surface.allowed_globs)
    return (
        f"no tracked file matches allowedGlobs ({globs}) but links, files that are no text, what forbiddenGlobs "
        "take back and what the harness imports: commit the file to be researched, or name it there"
    )


def _read(path: Path) -> str:
    """Text with its line endings as they are."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def _write(path: Path, text: str) -> None:
    """Text with its line endings as they are."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
