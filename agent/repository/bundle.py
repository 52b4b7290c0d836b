"""Carry commits from one clone to another as a git bundle: gitformat-bundle(5)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.errors import AutoresearchError, PreconditionError
from agent.repository.bounded import Bounds, TooLong, TooMuch, run_bounded
from agent.repository.git import Git, GitFailed
from agent.repository.workspace import Workspace
from agent.system import temporary
from agent.system.invocation import git_here

REFS, ORDERED = "refs/claim", "order"
LONGEST_LISTING = 2**25  # bytes
LARGEST_HEAD = 2**20  # bytes: a bundle for a station names the commits that it has
# For each git command that reads a stranger's bundle. A slow machine unpacks some megabytes in a second; a delta of a
# few bytes may stand for gigabytes.
SECONDS, SECONDS_PER_MB = 60.0, 2.0
MEMORY, MEMORY_PER_MB = 2048, 4  # MiB
SIGNATURES = (b"# v2 git bundle\n", b"# v3 git bundle\n")
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
    _require_deep(workspace)
    with temporary.folder() as name, _named_if_partial(workspace):
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
        _require_deep(workspace)
    wanted = "".join([f"{commit}\n", *(f"^{each}\n" for each in known)])
    options = ("--revs", "--thin", "--delta-base-offset", "--stdout", "--quiet")
    with _named_if_partial(workspace):
        pack = workspace.git.fed(["pack-objects", *options], wanted.encode(), {})
    # gitformat-bundle(5): version 2 knows SHA-1 only.
    head = "# v2 git bundle\n" if len(commit) == 40 else "# v3 git bundle\n@object-format=sha256\n"
    needed = "".join(f"-{each}\n" for each in known)
    return f"{head}{needed}{commit} {REFS}/{ORDERED}\n\n".encode() + pack


def fetch_bundle(
    workspace: Workspace, source: Path, commits: Mapping[str, str], refs: str, tick: Callable[[], None]
) -> str | None:
    """Fetch exactly these commits of a bundle into a workspace, as `fetch_into` does."""
    return fetch_into(workspace.git, source, commits, refs, tick)


def fetch_into(
    git: Git, source: Path, commits: Mapping[str, str], refs: str, tick: Callable[[], None] = lambda: None
) -> str | None:
    """Fetch exactly these commits of a stranger's bundle into `refs`/NAME.

    Args:
        commits: name -> full hash.
        tick: called while git reads the bundle; may raise to end it.

    Returns:
        Why the bundle does not hold them; None if it does. Then nothing else was fetched either. LACKS if it is based
        on commits that are missing here.

    Raises:
        AutoresearchError: it takes too much time or memory.
    """
    source = source.absolute()
    heads = _heads(source)
    if heads is None:
        return "is not a git bundle"
    if sorted(heads) != sorted(f"{commit} {REFS}/{label}".encode() for label, commit in commits.items()):
        return "holds other commits"
    size = source.stat().st_size // 2**20
    bounds = Bounds(SECONDS + SECONDS_PER_MB * size, MEMORY + MEMORY_PER_MB * size, tick)
    try:
        return _fault_of_fetch(git, source, commits, refs, bounds)
    except TooMuch as error:
        for part in (git.folder / "objects/pack").glob("tmp_*"):  # git leaves them if it is killed
            part.unlink(missing_ok=True)
        hint = "try again when the machine is idle; if it is, the bundle may be made to exhaust it"
        raise AutoresearchError(f"{source.name} {error} to read", hint=hint) from None


def _heads(source: Path) -> list[bytes] | None:
    """Return the lines of a bundle's header that name what it holds; None if it has none that is short enough."""
    with source.open("rb") as file:
        head, end, _ = file.read(LARGEST_HEAD).partition(b"\n\n")
    signature = next((each for each in SIGNATURES if head.startswith(each)), None)
    if not end or signature is None:
        return None
    return [line for line in head.removeprefix(signature).split(b"\n") if not line.startswith((b"-", b"@"))]


def _fault_of_fetch(git: Git, source: Path, commits: Mapping[str, str], refs: str, bounds: Bounds) -> str | None:
    """Fetch the commits and return the fault, as `fetch_into` does. Raises TooMuch if git takes too much."""
    try:
        run_bounded(git, ["bundle", "verify", "--quiet", str(source)], bounds)
    except GitFailed:
        return LACKS
    wanted = [f"{REFS}/{label}:{refs}/{label}" for label in commits]
    plain = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance")
    try:
        run_bounded(git, [*CHECKED, "fetch", *plain, str(source), *wanted], bounds)
    except GitFailed as error:
        return f"holds objects that git refuses ({str(error).rpartition(': ')[2][:200]})"
    for label, commit in commits.items():
        if not _is_listable(git, commit, bounds):
            return f"holds too many files in its {label}"
    with contextlib.suppress(AutoresearchError):  # a ref that is no commit
        if all(git.run("rev-parse", f"{refs}/{label}^{{commit}}") == commit for label, commit in commits.items()):
            return None
    return "holds other commits"


def require_whole(workspace: Workspace, commit: str) -> None:
    """Check that a bundle of a commit can be made. Git gets what a partial clone lacks from its remote, if it can.

    Raises:
        PreconditionError: the repository does not have the whole history.
    """
    _require_deep(workspace)
    if _is_partial(workspace):
        with _named_if_partial(workspace):
            listed = workspace.git.run("rev-list", "--objects", "--missing=print", commit)
        if any(line.startswith("?") for line in listed.splitlines()):  # else its pack takes memory for nothing
            write_order_bundle(workspace, commit)


def _require_deep(workspace: Workspace) -> None:
    if workspace.git.run("rev-parse", "--is-shallow-repository") == "true":
        hint = f"fetch its history with `{git_here(workspace.top)} fetch --unshallow`, then run the same command again"
        raise PreconditionError(f"{workspace.top} is a shallow clone, so the commits lack their history", hint=hint)


def _is_partial(workspace: Workspace) -> bool:
    said = workspace.git.asked("config", "--type=bool", "--get-regexp", r"^remote\..*\.promisor$") or ""
    return any(line.endswith(" true") for line in said.splitlines())


@contextlib.contextmanager
def _named_if_partial(workspace: Workspace) -> Iterator[None]:
    """Name the likely cause if git fails in the block and the repository is a partial clone."""
    try:
        yield
    except GitFailed:
        if not _is_partial(workspace):
            raise
        hint = f"fetch it with `{git_here(workspace.top)} fetch --refetch --no-filter`, then run the same command again"
        raise PreconditionError(
            f"{workspace.top} is a partial clone, and git cannot get what it lacks of its history", hint=hint
        ) from None


def _is_listable(git: Git, commit: str, bounds: Bounds) -> bool:
    """Return whether the list of all files of a commit is short enough to be read.

    A few trees that name each other ten times each make billions of paths, or none that ever ends if they are empty.
    """
    with contextlib.suppress(GitFailed):  # what is missing shows later
        try:
            run_bounded(git, ["ls-tree", "-r", "-z", "--full-tree", commit], replace(bounds, most=LONGEST_LISTING))
        except TooLong:
            return False
    return True


def new_sizes(workspace: Workspace, commit: str, known: str) -> dict[str, int]:
    """Return path -> bytes of the files of `commit` that differ from those of the commit `known`."""
    before = workspace.tree(known)
    new = {path: blob for path, (mode, blob) in workspace.tree(commit).items() if before.get(path) != (mode, blob)}
    asked = "".join(f"{blob}\n" for blob in {*new.values()}).encode()
    said = workspace.git.fed(["cat-file", "--batch-check"], asked, {}).decode(errors="replace")
    parts = [line.split() for line in said.splitlines()]
    sizes = {each[0]: int(each[2]) for each in parts if len(each) == 3 and each[2].isdecimal()}
    return {path: sizes.get(blob, 0) for path, blob in new.items()}
