"""The clone of a repository on a station: fed by bundles, never by a network."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from pathlib import Path

from agent.errors import AutoresearchError
from agent.execution.setup import drop_stamp
from agent.journal.paths import state_folder
from agent.protocol.load import load_protocol
from agent.repository.bundle import LACKS, ORDERED, fetch_into
from agent.repository.git import Git, new_repository
from agent.repository.workspace import Workspace
from agent.station.orders import Order
from agent.system import temporary
from agent.system.files import remove_tree

REFS = "refs/autoresearch/orders"
MARK = "prepared"  # the digest of what the setup commands saw


class Lacking(Exception):
    """The clone lacks commits that the bundle is based on."""


def update(folder: Path, order: Order) -> Path:
    """Bring a clone to the base of an order, and fetch the commit that it measures.

    A damaged clone is made anew: one that git cannot check out, such as after a kill that left a lock behind, or that
    lacks commits although the bundle brings all of them.

    Returns:
        The workspace in the clone.

    Raises:
        Lacking: a whole bundle is required.
        AutoresearchError: the bundle or the clone is unusable.
    """
    known = (folder / ".git").is_dir()
    try:
        return _updated(folder, order)
    except Lacking:
        if not known or order.bundle is None or _is_partial(order.bundle):
            raise
    except AutoresearchError:
        if not known:
            raise
        if order.bundle is None or _is_partial(order.bundle):
            remove_tree(folder)
            raise Lacking from None
    remove_tree(folder)
    return _updated(folder, order)


def _updated(folder: Path, order: Order) -> Path:
    git = _clone(folder, order)
    if not _has(git, order.commit):
        if order.bundle is None:
            raise Lacking
        _feed(git, order.bundle, order.commit)
    if not _has(git, order.base):
        raise Lacking
    if _head(git) != order.base or git.run("status", "--porcelain", "--untracked-files=no"):
        git.run("checkout", "--quiet", "--force", "--detach", order.base)
    workspace = (folder if order.prefix == "." else folder / order.prefix).resolve()
    if not workspace.is_relative_to(folder.resolve()):
        raise AutoresearchError(f"{order.prefix} leads out of the repository")
    return workspace


def require_prepared(workspace: Path, base: str) -> None:
    """Make the setup commands due again if they would see other files than the last time.

    Changes of mutable files do not count, since every kept candidate makes some.
    """
    found = Workspace(workspace, load_protocol(workspace))
    records = {found.in_repository(path) for path in found.records}
    sha = hashlib.sha256()
    for path, (mode, blob) in sorted(found.tree(base).items()):
        inside = found.inside(path)
        if path not in records and not (inside and found.may_change(base, inside)):
            sha.update(f"{path}\0{mode} {blob}\n".encode(errors="surrogateescape"))
    mark = state_folder(workspace) / MARK
    with contextlib.suppress(OSError):
        if mark.read_text() == sha.hexdigest():
            return
    drop_stamp(state_folder(workspace))
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(sha.hexdigest())


def _clone(folder: Path, order: Order) -> Git:
    """Return the clone's git, and make the clone if it is missing or damaged."""
    if (folder / ".git").is_dir():
        with contextlib.suppress(AutoresearchError):
            return Git(folder.resolve())
    remove_tree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind = "sha1" if len(order.commit) == 40 else "sha256"
    return new_repository(folder, kind)


def _feed(git: Git, bundle: bytes, commit: str) -> None:
    with tempfile.NamedTemporaryFile(prefix="autoresearch-bundle-", dir=temporary.place()) as file:
        file.write(bundle)
        file.flush()
        fault = fetch_into(git, Path(file.name), {ORDERED: commit}, f"{REFS}/{commit[:12]}")
    if fault == LACKS:
        raise Lacking
    if fault:
        raise AutoresearchError(f"the bundle of the order {fault}")


def _is_partial(bundle: bytes) -> bool:
    """Return whether a bundle is based on commits that it does not bring (gitformat-bundle(5))."""
    return b"\n-" in bundle.partition(b"\n\n")[0]


def _has(git: Git, commit: str) -> bool:
    """Return whether the clone has a commit that a ref keeps, with all of its history."""
    try:
        return bool(git.run("for-each-ref", "--count=1", f"--contains={commit}", f"{REFS}/"))
    except AutoresearchError:
        return False


def _head(git: Git) -> str:
    with contextlib.suppress(AutoresearchError):
        return git.run("rev-parse", "--verify", "--quiet", "HEAD")
    return ""
