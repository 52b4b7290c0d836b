"""What the user should know of rooms before the first run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.format import named
from agent.journal.paths import home_folder
from agent.repository.harness import LINK
from agent.repository.workspace import Workspace
from agent.room.keys import KEY_PLACES, is_key, is_private, leading_out
from agent.room.places import OF_ROOM, READ_VARIABLE, asked
from agent.room.room import ENVIRONMENT, LARGEST_COPY, SoFar, UntrackedFiles
from agent.room.sandbox import Sandbox

MOST_NAMED = 3
FILES = ("100644", "100755")  # modes in git
# Ends of names of files that show which keys are needed, and hold none.
SAMPLES = (".example", ".sample", ".template", ".dist", ".defaults")


def remarks(sandbox: Sandbox, workspace: Workspace, untracked: UntrackedFiles) -> Iterator[str]:
    """Yield a sentence for each thing that runs see, or do not see, against what the user may expect."""
    yield from _of_asked(sandbox)
    tracked = workspace.staged()
    keys = [name for name, (mode, _) in tracked.items() if mode in FILES and _may_hold_keys(workspace, name)]
    if keys:
        yield f"{named(keys, MOST_NAMED)} may contain keys, and runs see what git tracks"
    own = ((name, lead) for name, lead in leading_out(workspace.top) if tracked.get(name, ("",))[0] == LINK)
    leads = [f"{name} -> {lead}" for name, lead in own if not is_private(lead, workspace.top)]
    if leads:
        yield f"runs see what tracked links lead to: {named(leads, MOST_NAMED)}"
    if sandbox.way is None and (lent := _lent(workspace, untracked)):
        size = f"{LARGEST_COPY // 2**20} MiB"
        yield f"{named(lent, MOST_NAMED)}: too large to copy (over {size}), so runs without a sandbox can change them"


def _of_asked(sandbox: Sandbox) -> Iterator[str]:
    own = {*OF_ROOM, Path("/cache"), home_folder(), home_folder().resolve()} if sandbox.has_root else set[Path]()
    for place in asked() if sandbox.way else ():
        if not place.exists():
            yield f"{READ_VARIABLE} names {place}, which does not exist"
        elif place in own | {Path("/")}:
            yield f"{READ_VARIABLE} names {place}, of which runs have their own: name folders in it"


def _may_hold_keys(workspace: Workspace, name: str) -> bool:
    path = workspace.top / name
    in_folder = not KEY_PLACES.isdisjoint(Path(name).parts)
    return in_folder or (is_key(path, nested="/" in name) and not name.endswith(SAMPLES) and path.is_file())


def _lent(workspace: Workspace, untracked: UntrackedFiles) -> list[str]:
    """Return the untracked files and folders that an unconfined run finds at their own paths."""
    checkout, so_far = untracked.source or workspace.top, SoFar()
    places = {name: checkout / name for name in untracked.names if Path(name).name != ENVIRONMENT}
    return [name for name, place in places.items() if not place.is_symlink() and not so_far.takes(place)]
