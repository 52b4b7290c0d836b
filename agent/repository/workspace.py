"""The workspace as recorded in commits: read their files, and create commits of candidates and results.

A candidate is a commit from the start. It is made without the index and the working tree and without moving the
branch, and `refs/autoresearch/<tag>/<number>` keeps it permanently. The branch moves once per experiment, to a commit
that holds the incumbent and the new row of the results; see `agent.repository.checkout`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from agent.errors import AutoresearchError, PreconditionError, Violation
from agent.format import named
from agent.protocol.models import Protocol
from agent.repository.bounded import Bounds, run_bounded
from agent.repository.git import LITERAL, Git, GitFailed
from agent.repository.harness import LINK, LONGEST_LINK, HarnessFiles
from agent.repository.loose import remove_empty_objects
from agent.source.encoding import decoded, encoded
from agent.system import temporary
from agent.system.invocation import git_here
from agent.system.memory import remember
from agent.system.names import PLAYBOOK, PROGRAM, PROTOCOL

COMMIT_ATTEMPTS = 8
# In git's own words, and in ours of an object that is gone.
DAMAGED = re.compile(
    r"no longer has|invalid object|bad object|nonexistent object|not a (?:valid|tree|commit) object|is corrupt|is empty"
    r"|unable to read|Error building trees|failed to (?:unpack|read)|could not (?:read|parse)|missing",
    re.IGNORECASE,
)
MOST_TREES, MOST_BLOBS, LARGEST_REMEMBERED = 8, 64, 2**16
SUBMODULE = "160000"
PLAIN = ("--no-color", "--no-ext-diff", "--no-textconv")
MOST_DIFFS = 200  # diffs by one process, to bound its output
HASH_LINE = re.compile(r"^([0-9a-f]{40}|[0-9a-f]{64})\n", re.MULTILINE)
MOST_SAID = 2**26  # bytes, by filters that report how far they are
# Files for people and their tools, in the top folder of the repository or the workspace, which no run reads.
FOR_PEOPLE = re.compile(
    r"(?i:README|LICENSE|LICENCE|NOTICE|CHANGELOG|CHANGES|CONTRIBUTING|AUTHORS|TODO|NOTES|CLAUDE|AGENTS)(\.(md|rst|txt))?"
    r"|CITATION\.cff|\.(gitignore|mcp\.json|editorconfig|gitlab-ci\.yml|pre-commit-config\.yaml)"
    r"|\.(github|gitlab|claude|cursor|vscode|idea)/.+|docs?/.+\.(md|rst)"
)
CLAIM = "claim.json"
NO_COMMIT = "Needed a single revision"  # git's own words
NOTHING_MAY_CHANGE_HINT = "commit the file to research, or name it in allowedGlobs and not in immutableHarness.paths"


class Workspace:
    """The folder with protocol.json, at the top of a git repository or below.

    Attributes:
        git: only for the modules of this package.
        top: the top folder of the repository.
        tick: called while git writes the files of a commit, by the user's filters, and may raise to end it. None lets
            nothing end it.
    """

    tick: Callable[[], None] | None = None

    def __init__(self, folder: Path, protocol: Protocol) -> None:
        self.folder = folder.resolve()
        self.protocol = protocol
        self.git = Git(self.folder)
        self.top = self.git.top
        self._prefix = PurePosixPath(self.folder.relative_to(self.top).as_posix())
        self._short: dict[str, str] = {}
        self._trees: dict[str, dict[str, tuple[str, str]]] = {}
        self._contents: dict[str, bytes] = {}
        self._harness = HarnessFiles(protocol, self._inside_tree, self._blobs, self.folder / ".venv")

    # Reading

    @property
    def prefix(self) -> str:
        """The workspace's path relative to the top of its repository; `.` at the top."""
        return str(self._prefix)

    @property
    def head(self) -> str:
        """The hash of HEAD. Raises PreconditionError if nothing is committed yet."""
        try:
            return self.git.run("rev-parse", "--verify", "HEAD")
        except AutoresearchError as error:
            if NO_COMMIT not in str(error):
                raise
            raise PreconditionError(
                f"{self.top} has no commit yet",
                hint=f"`{git_here(self.top)} add` the project's files and commit them, then run the same command again",
            ) from None

    def resolve(self, name: str) -> str | None:
        """Return the full hash of the commit that a ref or hash names, or None if it does not exist."""
        return self.git.asked("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")

    def is_ancestor(self, old: str, new: str) -> bool:
        return self.git.asked("merge-base", "--is-ancestor", old, new) is not None

    def subject(self, commit: str) -> str:
        """Return the first line of a commit's message."""
        return self.git.run("log", "--no-show-signature", "-1", "--format=%s", commit)

    @property
    def author(self) -> str | None:
        """`Name <address>` as the user has configured it, or None if either is missing."""
        user = self.git.user
        return f"{user['name']} <{user['email']}>" if len(user) == 2 else None

    def is_tracked(self, path: str) -> bool:
        return bool(self.git.run("ls-files", "--", self.in_repository(path)))

    def files(self, commit: str) -> dict[str, str]:
        """Return path -> text of every file in `commit` that a candidate may change.

        Symbolic links are left out, because git stores only their target.
        """
        wanted = {
            path: blob
            for path, (mode, blob) in self._inside_tree(commit).items()
            if mode.startswith("100") and self.may_change(commit, path)
        }
        contents = self._blobs([*wanted.values()])
        texts = {}
        for path, blob in wanted.items():
            with contextlib.suppress(UnicodeError):  # a binary file cannot be edited as text
                texts[path] = decoded(path, contents[blob])
        return texts

    def harness(self, commit: str) -> frozenset[str]:
        """Return the files of the harness in `commit`, including the modules that they import."""
        return self._harness.of(commit)

    def remarks_on_harness(self, commit: str) -> list[str]:
        """Return sentences about paths of immutableHarness that do something else than they seem to."""
        surface, said = self.protocol.mutable_surface, []
        for path in self._harness.unmatched(commit):
            said.append(f"immutableHarness.paths: {path} matches no tracked file, so it protects none")
        for path in sorted(_in_both(self.protocol)):
            if self._harness.holds(commit, path) and surface.allows(path):
                said.append(f"{path} is in allowedGlobs and in immutableHarness.paths, so no candidate may change it")
        return said

    def harness_digest(self, commit: str) -> str:
        """Return a SHA-256 over paths and contents of the harness in `commit`."""
        return self._harness.digest(commit)

    def protected_since(self, commit: str, digest: str | None) -> list[str]:
        """Return the paths in both lists if `digest` is that of a version that left them to candidates, else none."""
        both = sorted(_in_both(self.protocol))
        former = both and digest not in (None, self._harness.digest(commit))
        return both if former and digest == self._harness.former_digest(commit) else []

    def changed_beside(self, one: str, other: str, *, every: bool = False) -> list[str]:
        """Return the files of the workspace that differ between two commits, and that a run may read.

        Those that only people and this program read do not count, nor does protocol.json, nor claims.

        Args:
            every: also those that candidates may change, and those outside of the workspace.
        """
        trees, above = (self.tree(one), self.tree(other)), "" if self.prefix == "." else f"{self.prefix}/"
        own = {PROTOCOL, PROGRAM, *self.records, self.protocol.provenance.baseline_artifact_path}
        changed = [path for path in sorted({*trees[0], *trees[1]}) if trees[0].get(path) != trees[1].get(path)]
        found = []
        for path in changed:
            inside = path[len(above) :] if path.startswith(above) else None
            if inside in own or FOR_PEOPLE.fullmatch(inside or path) or FOR_PEOPLE.fullmatch(path):
                continue
            if every or (inside is not None and not any(self.may_change(each, inside) for each in (one, other))):
                found.append(path)
        return [path for path in found if not any(self._is_of_claim(each, path) for each in (one, other))]

    def _is_of_claim(self, commit: str, path: str) -> bool:
        """Return whether a file is part of what `autoresearch claim` wrote, which is there to be published."""
        tree = self.tree(commit)
        folders = [f"{folder}/{CLAIM}" for folder in PurePosixPath(path).parents if f"{folder}/{CLAIM}" in tree]
        contents = self._blobs([tree[each][1] for each in folders])
        return any(b'"claim.schema.json"' in contents[tree[each][1]] for each in folders)

    def refusal(self, parent: str, paths: Iterable[str], *, shadows: bool = True) -> str | None:
        """Return why a candidate on top of `parent` may not change `paths`, as "changes a.py, which ...", or None.

        Args:
            shadows: refuse new modules in place of Python's and installed ones, and attributes of git, too.
        """
        for path in paths:
            inside = (self.folder / path).resolve().is_relative_to(self.folder)
            if not inside or not self.protocol.mutable_surface.allows(path):
                return f"changes {path}, which mutableSurface does not allow"
            for above in PurePosixPath(self.in_repository(path)).parents:
                if self.tree(parent).get(str(above), ("", ""))[0] == SUBMODULE:
                    return f"changes {path}, which is in the submodule {above}"
        return self._harness.refusal(parent, paths, shadows=shadows)

    def show(self, commit: str, path: str) -> str | None:
        """Return the text of `path` in `commit`, or None if it has no such file."""
        content = self.content(commit, path)
        return None if content is None else content.decode(errors="surrogateescape")

    def merge(self, ours: str, base: str, theirs: str) -> str | None:
        """Return `ours` with the changes from `base` to `theirs`, or None if they conflict with its own."""
        with temporary.folder() as scratch:
            paths = [Path(scratch) / name for name in ("ours", "base", "theirs")]
            for path, content in zip(paths, (ours, base, theirs), strict=True):
                _write(path, content)
            # git merge-file exits with the number of conflicts.
            return None if self.git.asked("merge-file", "--quiet", *map(str, paths)) is None else _read(paths[0])

    def diff(self, old: str, new: str) -> str:
        """Return the unified diff of the workspace between two commits, without the program's own records."""
        return self.git.run("diff", *PLAIN, old, new, "--", *self._without_records(), env={LITERAL: "0"})

    def changes(self, commits: Sequence[str]) -> dict[str, str]:
        """Return commit -> its diff to its parent, as `diff` writes it, for those of `commits` that exist.

        One git process writes the diffs of many commits, because a thousand processes take seconds.
        """
        found: dict[str, str] = {}
        for start in range(0, len(commits), MOST_DIFFS):
            asked = "".join(f"{commit}\n" for commit in commits[start : start + MOST_DIFFS]).encode()
            args = ["diff-tree", "--stdin", "-r", "-p", *PLAIN, "--", *self._without_records()]
            # Each diff follows a line with its commit. No line of a diff consists of a hash alone.
            parts = HASH_LINE.split(os.fsdecode(self.git.fed(args, asked, {LITERAL: "0"})))
            found |= dict(zip(parts[1::2], parts[2::2], strict=True))
        return found

    def _without_records(self) -> tuple[str, ...]:
        """Return the paths of git for the workspace without the program's own records."""
        own = (f":(top,exclude,literal){self.in_repository(path)}" for path in self.records)
        return f":(top,literal){'' if self.prefix == '.' else self.prefix}", *own

    @property
    def records(self) -> tuple[str, ...]:
        """The files that the program commits itself: the results, and the playbook unless candidates may change it."""
        results = self.protocol.provenance.results_log.path
        may_change = self.protocol.mutable_surface.allows(PLAYBOOK)
        return (results,) if may_change or results == PLAYBOOK else (results, PLAYBOOK)

    def playbook(self, commit: str) -> bytes | None:
        """Return the playbook in `commit`; None if it has none that a session may add to."""
        mode, _ = self.tree(commit).get(self.in_repository(PLAYBOOK), ("", ""))
        own = PLAYBOOK in self.records and not self._harness.holds(commit, PLAYBOOK)
        return self.content(commit, PLAYBOOK) if own and mode.startswith("100") else None

    def export(self, folder: Path, commit: str | None = None) -> Path:
        """Write every file of a commit below `folder` and return the path of the workspace in it.

        Files that equal those of the checkout keep their modification time, because build tools rely on it.

        Args:
            commit: None means HEAD.
        """
        commit = commit or self.head
        with temporary.folder() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self.git.run("read-tree", commit, env=index)
            write = ["checkout-index", "--all", f"--prefix={folder}/"]
            if self.tick is None:
                self.git.run(*write, env=index)
            else:
                run_bounded(self.git, write, Bounds(math.inf, None, self.tick, MOST_SAID), index)
        for path, (mode, blob) in self.staged().items():
            if self.tree(commit).get(path) == (mode, blob):
                with contextlib.suppress(OSError):
                    there = (self.top / path).lstat()
                    os.utime(folder / path, ns=(there.st_atime_ns, there.st_mtime_ns), follow_symlinks=False)
        (folder / self._prefix).mkdir(parents=True, exist_ok=True)
        return folder / self._prefix

    def clone(self, folder: Path) -> Workspace:
        """Clone the repository into a new folder at the commit of HEAD, and return the workspace in the clone.

        The clone has the tracked files only, and uses the objects of this repository without changing them.
        """
        self.git.run("clone", "--quiet", "--shared", "--no-tags", "--no-checkout", str(self.top), str(folder))
        Git(folder).run("checkout", "--quiet", "--detach", self.head)
        return Workspace(folder / self._prefix, self.protocol)

    def results(self, commit: str) -> str:
        """Return the text of the results file in `commit`; empty if there is none."""
        return self.show(commit, self.protocol.provenance.results_log.path) or ""

    def untracked(self) -> list[str]:
        """Return the untracked files and folders of the repository, including ignored ones, relative to its top."""
        return [name.rstrip("/") for name in self.git.lines("ls-files", "-z", "--others", "--directory")]

    def submodules(self, commit: str | None = None) -> dict[str, str]:
        """Return path -> commit of the submodules in a commit, by default in the index, relative to the top."""
        files = self.staged() if commit is None else self.tree(commit)
        return {path: at for path, (mode, at) in files.items() if mode == SUBMODULE}

    def shorts(self, commits: Iterable[str]) -> dict[str, str]:
        """Return commit -> a unique abbreviated hash of at least seven characters.

        Cached, because rows are rewritten each time. One git process answers for all commits that exist, because a
        thousand processes take seconds.
        """
        wanted = [*dict.fromkeys(commits)]
        if new := [each for each in wanted if each not in self._short]:
            args = ["log", "--no-show-signature", "--ignore-missing", "--no-walk=unsorted", "--stdin"]
            asked = "".join(f"{commit}\n" for commit in new).encode()
            said = self.git.fed([*args, "--abbrev=7", "--format=%H %h"], asked, {}).decode()
            self._short |= dict(line.split() for line in said.splitlines())
        for commit in wanted:
            if commit not in self._short:
                self._short[commit] = self.git.run("rev-parse", "--short=7", commit)
        return {commit: self._short[commit] for commit in wanted}

    def missing(self, commits: Sequence[str]) -> set[str]:
        """Return those of the commits that do not exist, asked of a single git process."""
        asked = "".join(f"{commit}^{{commit}}\n" for commit in commits).encode()
        said = self.git.fed(["cat-file", "--batch-check"], asked, {}).decode().splitlines()
        return {commit for commit, line in zip(commits, said, strict=True) if line.endswith(" missing")}

    def is_whole(self, commit: str, files: Collection[str] = ()) -> bool:
        """Return whether git can read a commit, its top tree and these files of the workspace, with their folders."""
        return not self.damaged({commit: files})

    def damaged(self, commits: Mapping[str, Collection[str]]) -> list[str]:
        """Return those of the commits of which git cannot read all that `is_whole` reads.

        One git process reads them all. It ends at the first object that is damaged and not just missing; only then
        each commit gets one of its own.

        Args:
            commits: full hash -> files of the workspace.
        """
        names = {
            commit: [f"{commit}^{{tree}}", *(f"{commit}:{self.in_repository(path)}" for path in files)]
            for commit, files in commits.items()
        }
        # Git reads a name a line.
        names = {commit: [name for name in each if "\n" not in name] for commit, each in names.items()}
        asked = os.fsencode("".join(f"{name}\n" for each in names.values() for name in each))
        try:
            found = iter(self.git.fed(["cat-file", "--batch-check"], asked, {}).split(b"\n"))
            lines = {commit: [next(found) for _ in each] for commit, each in names.items()}
            return [commit for commit, each in lines.items() if any(line.endswith(b" missing") for line in each)]
        except GitFailed as error:
            if error.code < 0:
                raise
        if len(names) == 1:
            return [*names]
        return [commit for commit, files in commits.items() if not self.is_whole(commit, files)]

    # Writing

    def commit_candidate(
        self,
        ref: str,
        parent: str,
        files: Mapping[str, str | None],
        message: str,
        first: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Commit `files` on top of `parent` and keep it under `ref`.

        Args:
            files: path -> new text; None removes a file.
            first: called with the commit before the ref is set.

        Raises:
            Violation: a file may not change, or cannot be written in the encoding that it declares.
        """
        if refusal := self.refusal(parent, [*files]) or _unwritable(files):
            raise Violation(f"the proposal {refusal}")
        contents = {path: None if text is None else encoded(path, text) for path, text in files.items()}
        return self._commit_on(parent, contents, message, ref, first)

    def commit_files(
        self,
        parent: str,
        files: Mapping[str, str],
        message: str,
        playbook: bytes | None = None,
        ref: str | None = None,
    ) -> str:
        """Commit mutable files on top of `parent` in the name of the user.

        Args:
            playbook: the new content of the playbook; None if it does not change.
            ref: as for `commit_results`.

        Raises:
            PreconditionError: a file may not change there or cannot be written, or git does not know the user's name.
        """
        # Earlier versions measured and kept modules that would be refused now.
        if refusal := self.refusal(parent, [*files], shadows=False) or _unwritable(files):
            raise PreconditionError(f"the commit {refusal}")
        if not self.git.knows_user:
            git = git_here(self.top)
            raise PreconditionError(
                "git does not know your name and address, which the commit needs",
                hint=f"set them with `{git} config user.name NAME` and `{git} config user.email ADDRESS`",
            )
        contents = {path: encoded(path, text) for path, text in files.items()}
        whole = contents if playbook is None else {**contents, PLAYBOOK: playbook}
        return self._commit_on(parent, whole, message, ref)

    def commit_playbook(self, parent: str, content: bytes, message: str, ref: str | None = None) -> str:
        """Commit the playbook on top of `parent` without moving the branch, as `commit_results` does the results."""
        return self._commit_on(parent, {PLAYBOOK: content}, message, ref)

    def commit_results(self, parent: str, text: str, message: str, ref: str | None = None) -> str:
        """Commit the results on top of `parent` without moving the branch; `Checkout.advance` does that.

        Args:
            ref: keeps the commit until the branch has it; None for a repository in which no other git runs.
        """
        content = text.encode(errors="surrogateescape")  # rows that other tools wrote keep their bytes
        return self._commit_on(parent, {self.protocol.provenance.results_log.path: content}, message, ref)

    def keep(self, ref: str, commit: str) -> None:
        self.git.run("update-ref", ref, commit)

    def forget(self, ref: str) -> None:
        self.git.run("update-ref", "-d", ref)

    def release(self, ref: str) -> None:
        """Delete a ref that kept a commit until a branch had it. Where git cannot, the next such commit replaces it."""
        with contextlib.suppress(GitFailed):
            if self.resolve(ref) is not None:
                self.forget(ref)

    # For `Checkout` and `edit`

    def as_committed(self, name: str) -> bytes:
        """Return the content that git would commit for a file of the checkout, after its filters.

        Args:
            name: relative to the top of the repository.
        """
        blob = self.git.run("hash-object", "-w", f"--path={name}", "--", str(self.top / name))
        return self._blobs([blob])[blob]

    def content(self, commit: str, path: str) -> bytes | None:
        """Return the content of `path` in `commit`, or None if the file or the commit does not exist.

        Raises:
            AutoresearchError: git failed, so that it is unknown whether the file exists.
        """
        if commit not in self._trees and self.resolve(commit) is None:
            return None
        mode, blob = self.tree(commit).get(self.in_repository(path), (SUBMODULE, ""))
        return None if mode == SUBMODULE else self._blobs([blob])[blob]

    def in_repository(self, path: str) -> str:
        """Return a path of the workspace relative to the top of the repository."""
        return str(self._prefix / path)

    def inside(self, path: str) -> str | None:
        """Return a path of the repository relative to the workspace, or None if it is outside of the workspace."""
        name = PurePosixPath(path)
        return str(name.relative_to(self._prefix)) if name.is_relative_to(self._prefix) else None

    def _inside_tree(self, commit: str) -> dict[str, tuple[str, str]]:
        """Return path -> mode and blob of all files of the workspace in `commit`, relative to the workspace."""
        above = "" if self.prefix == "." else f"{self.prefix}/"
        return {path[len(above) :]: entry for path, entry in self.tree(commit).items() if path.startswith(above)}

    def may_change(self, commit: str, path: str) -> bool:
        return self.protocol.mutable_surface.allows(path) and not self._harness.holds(commit, path)

    def tree(self, commit: str) -> dict[str, tuple[str, str]]:
        """Return path -> mode and blob of all files in `commit`. Cached for full hashes, which never change meaning."""
        known = self._trees.get(commit)
        if known is None:
            known = {}
            for line in self.git.lines("ls-tree", "-r", "-z", "--full-tree", commit):
                about, _, path = line.partition("\t")
                mode, _, blob = about.split(" ")
                known[path] = (mode, blob)
            if len(commit) >= 40:  # a full hash
                remember(self._trees, commit, known, MOST_TREES)
        return known

    def links(self, commit: str) -> dict[str, str]:
        """Return path -> target, as it is written and cut after `LONGEST_LINK` bytes, of all links in `commit`."""
        blobs = {path: blob for path, (mode, blob) in self.tree(commit).items() if mode == LINK}
        contents = self._blobs([*blobs.values()])
        return {path: os.fsdecode(contents[blob][:LONGEST_LINK]) for path, blob in blobs.items()}

    def staged(self) -> dict[str, tuple[str, str]]:
        """Return path -> mode and blob of all files in the index."""
        found = {}
        for line in self.git.lines("ls-files", "--stage", "-z"):
            about, _, path = line.partition("\t")
            mode, blob, _ = about.split(" ")
            found[path] = (mode, blob)
        return found

    # Inside

    def _commit_on(
        self,
        parent: str,
        contents: Mapping[str, bytes | None],
        message: str,
        ref: str | None = None,
        first: Callable[[str], None] = lambda _: None,
    ) -> str:
        """Create a commit and keep it under `ref`.

        Until the ref is set, a `git gc --prune=now` of the user's deletes parts of it: then all of them are written
        again. So are those of which a power cut has left an empty file, which git takes for the object.
        """
        changed = [path for path, content in contents.items() if content is not None]
        for last in (*[False] * COMMIT_ATTEMPTS, True):
            try:
                commit = self._written(parent, contents, message)
                first(commit)
                if ref is not None:
                    self.keep(ref, commit)
            except GitFailed as error:
                if last or error.waited or error.code < 0 or not DAMAGED.search(str(error)):
                    raise
            else:
                if self.is_whole(commit, changed):
                    return commit
                if ref is not None:
                    self.forget(ref)  # git collects nothing while a ref names what it lacks
            remove_empty_objects(self.git)
        raise AutoresearchError(
            f"git in {self.top} keeps losing parts of a commit that was just written",
            hint=f"end what deletes objects there, such as `git gc --prune=now` in a loop, look for faults of the disk "
            f"with `{git_here(self.top)} fsck`, then run the same command again",
        )

    def _written(self, parent: str, contents: Mapping[str, bytes | None], message: str) -> str:
        """Create a commit with plumbing commands only, without hooks, signature prompts or the user's index."""
        entries = dict(self.tree(parent))
        with temporary.folder() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self.git.run("read-tree", parent, env=index)
            for path, content in contents.items():
                if content is None:
                    del entries[self.in_repository(path)]
                    self.git.run("update-index", "--force-remove", "--", self.in_repository(path), env=index)
                    continue
                blob = self.git.fed(["hash-object", "-w", "--stdin"], content, {}).decode().strip()
                name = self.in_repository(path)
                entries[name] = (entries[name][0] if name in entries else "100644", blob)
                # Unlike --index-info, this refuses to replace a folder with a file, and vice versa.
                self.git.run("update-index", "--add", "--cacheinfo", f"{entries[name][0]},{blob},{name}", env=index)
            tree = self.git.run("write-tree", env=index)
        # On the standard input: an argument would have to be in the encoding of the user's locale.
        said = message.encode(errors="replace")
        commit = self.git.fed(["commit-tree", tree, "-p", parent, "-F", "-"], said, {}).decode().strip()
        remember(self._trees, commit, entries, MOST_TREES)
        return commit

    def _blobs(self, wanted: list[str]) -> dict[str, bytes]:
        """Return blob -> content, read by a single git process (git-cat-file(1), batch output).

        Small blobs are cached, because their hashes never change meaning.
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
                raise AutoresearchError(
                    f"git object {blob[:12]} is missing from {self.top}",
                    hint=f"run `{git_here(self.top)} fsck`, then fetch the missing objects",
                )
            end = head + 1 + int(about[2])
            found[blob] = said[head + 1 : end]
            at = end + 1
            if len(found[blob]) <= LARGEST_REMEMBERED:
                remember(self._contents, blob, found[blob], MOST_BLOBS)
        return found


def nothing_may_change(protocol: Protocol) -> str:
    """Return the message for a commit in which `Workspace.files` finds none. Its hint is NOTHING_MAY_CHANGE_HINT."""
    globs = ", ".join(protocol.mutable_surface.allowed_globs)
    if both := sorted(_in_both(protocol)):
        return f"allowedGlobs ({globs}) leave nothing to change: immutableHarness.paths protects {named(both, 3)}"
    return (
        f"no tracked file matches allowedGlobs ({globs}), not counting links, binary files, "
        "files that match forbiddenGlobs, and files of the harness"
    )


def _in_both(protocol: Protocol) -> set[str]:
    """Return the paths that both allowedGlobs and immutableHarness.paths name, which are protected."""
    lists = protocol.mutable_surface.allowed_globs, protocol.immutable_harness.paths
    allowed, harness = ({PurePosixPath(path).as_posix() for path in paths} for paths in lists)
    return allowed & harness


def _unwritable(files: Mapping[str, str | None]) -> str | None:
    """Return a clause about a text with a character that the encoding of its file lacks, or None."""
    for path, text in files.items():
        try:
            encoded(path, text or "")
        except UnicodeEncodeError as error:
            lacking = ascii(error.object[error.start])
            return f"changes {path} with {lacking}, which its encoding {error.encoding} lacks"
    return None


def _read(path: Path) -> str:
    """Read text without translating line endings."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def _write(path: Path, text: str) -> None:
    """Write text without translating line endings."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
