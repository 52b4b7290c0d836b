"""Carry commits from one clone to another as a git bundle: gitformat-bundle(5)."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.errors import AutoresearchError, PreconditionError
from agent.repository.git import GIT, Git
from agent.repository.workspace import Workspace
from agent.system.invocation import git_here

REFS, ORDERED = "refs/claim", "order"
LONGEST_LISTING = 2**25  # bytes
LACKS = "lacks commits that its own are based on"
# Objects of strangers are checked for what git itself would never write, such as a path into .git.
CHECKED = ("-c", "transfer.fsckObjects=true", "-c", "fetch.fsckObjects=true")


def write_bundle(workspace: Workspace, target: Path, commits: Mapping[str, str]) -> None:
    """Write commits with their whole history, so that any clone can read them.

    The refs that a bundle needs are made in a temporary repository that borrows the objects of this one.

    Args:
        commits: name -> full hash.

    Raises:
        PreconditionError: the repository does not have the whole history.
    """
    _require_whole(workspace)
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        workspace.git.run("clone", "--quiet", "--shared", "--no-tags", "--no-checkout", str(workspace.top), str(clone))
        git = Git(clone.resolve())
        for label, commit in commits.items():
            git.run("update-ref", f"{REFS}/{label}", commit)
        git.run("bundle", "create", "--quiet", str(target.resolve()), *(f"{REFS}/{label}" for label in commits))


def write_order_bundle(workspace: Workspace, commit: str, known: Sequence[str] = ()) -> bytes:
    """Return a bundle of one commit, named ORDERED, without what a reader has that has `known`.

    It takes one git process, because it is made for each run: the header is a few lines of text.

    Args:
        commit: its full hash.
        known: full hashes of commits that the reader has; none for the whole history.

    Raises:
        PreconditionError: the repository does not have the whole history.
    """
    if not known:
        _require_whole(workspace)
    wanted = "".join([f"{commit}\n", *(f"^{each}\n" for each in known)])
    options = ("--revs", "--thin", "--delta-base-offset", "--stdout", "--quiet")
    pack = workspace.git.fed(["pack-objects", *options], wanted.encode(), {})
    # gitformat-bundle(5): version 2 knows SHA-1 only.
    head = "# v2 git bundle\n" if len(commit) == 40 else "# v3 git bundle\n@object-format=sha256\n"
    needed = "".join(f"-{each}\n" for each in known)
    return f"{head}{needed}{commit} {REFS}/{ORDERED}\n\n".encode() + pack


def fetch_bundle(workspace: Workspace, source: Path, commits: Mapping[str, str], refs: str) -> str | None:
    """Fetch exactly these commits of a bundle into a workspace, as `fetch_into` does."""
    return fetch_into(workspace.git, source, commits, refs)


def fetch_into(git: Git, source: Path, commits: Mapping[str, str], refs: str) -> str | None:
    """Fetch exactly these commits of a stranger's bundle into `refs`/NAME.

    Args:
        commits: name -> full hash.

    Returns:
        Why the bundle does not hold them; None if it does. Then nothing else was fetched either. LACKS if it is based
        on commits that are missing here.
    """
    source = source.absolute()
    try:
        heads = git.run("bundle", "list-heads", str(source)).splitlines()
    except AutoresearchError:
        return "is not a git bundle"
    expected = {f"{commit} {REFS}/{label}" for label, commit in commits.items()}
    if {*heads} != expected:
        return "holds other commits"
    try:
        git.run("bundle", "verify", "--quiet", str(source))
    except AutoresearchError:
        return LACKS
    wanted = [f"{REFS}/{label}:{refs}/{label}" for label in commits]
    plain = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")
    try:
        git.run(*CHECKED, "fetch", *plain, str(source), *wanted)
    except AutoresearchError as error:
        return f"holds objects that git refuses ({str(error).rpartition(': ')[2][:200]})"
    for label, commit in commits.items():
        if not _is_listable(git, commit):
            return f"holds too many files in its {label}"
    with contextlib.suppress(AutoresearchError):  # a ref that is no commit
        if all(git.run("rev-parse", f"{refs}/{label}^{{commit}}") == commit for label, commit in commits.items()):
            return None
    return "holds other commits"


def _require_whole(workspace: Workspace) -> None:
    if workspace.git.run("rev-parse", "--is-shallow-repository") == "true":
        hint = f"fetch its history with `{git_here(workspace.top)} fetch --unshallow`, then run the same command again"
        raise PreconditionError(f"{workspace.top} is a shallow clone, so the commits lack their history", hint=hint)


def _is_listable(git: Git, commit: str) -> bool:
    """Return whether the list of all files of a commit is short enough to be read.

    A few trees that name each other ten times each make billions of paths.
    """
    command = [*GIT, "ls-tree", "-r", "-z", "--full-tree", commit]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command,
        cwd=git.top,
        env=git.environment(),
        stdin=quiet,
        stdout=subprocess.PIPE,
        stderr=quiet,
        start_new_session=True,  # else a Ctrl-C would shorten the list
    ) as listing:
        assert listing.stdout is not None
        size = 0
        while size <= LONGEST_LISTING and (part := listing.stdout.read(2**20)):
            size += len(part)
        listing.kill()
    return size <= LONGEST_LISTING


def new_content(workspace: Workspace, commit: str, known: str) -> tuple[int, int]:
    """Return how many files of `commit` differ from those of the commit `known`, and how many bytes they have."""
    same = set(workspace.tree(known).items())
    new = {blob for path, (mode, blob) in workspace.tree(commit).items() if (path, (mode, blob)) not in same}
    said = workspace.git.fed(["cat-file", "--batch-check"], "".join(f"{blob}\n" for blob in new).encode(), {})
    sizes = [line.split() for line in said.decode(errors="replace").splitlines()]
    return len(new), sum(int(parts[2]) for parts in sizes if len(parts) == 3 and parts[2].isdecimal())
