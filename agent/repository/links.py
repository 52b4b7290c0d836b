"""Resolve paths in a commit through its symbolic links, as the system would in a checkout."""

from __future__ import annotations

from collections.abc import Collection, Mapping

MOST_HOPS = 40  # links on one way, as on Linux: path_resolution(7)


def way_to(path: str, files: Collection[str], links: Mapping[str, str]) -> list[str]:
    """Return the links on the way to `path` and, last, the file that it resolves to.

    A link that leads out of the commit resolves to itself. The list is empty if no file is found.

    Args:
        files: all paths of the commit.
        links: path of each symbolic link -> its target as written in it.
    """
    way: list[str] = []
    at, rest = "", path.split("/")[::-1]
    while rest:
        part = rest.pop()
        if part == "..":
            if not at:
                return [path] if path in files else []
            at = at.rpartition("/")[0]
        elif part not in ("", "."):
            at = f"{at}/{part}" if at else part
        if at in links:
            if len(way) == MOST_HOPS or links[at].startswith("/"):
                return [path] if path in files else []
            way.append(at)
            rest += links[at].split("/")[::-1]
            at = at.rpartition("/")[0]
    return [*way, at] if at in files else [path] if path in files else []


def way_out(path: str, links: Mapping[str, str], folders: Collection[str]) -> str | None:
    """Return where a path leads that leaves the commit: absolute or relative to its top. None if it does not.

    Args:
        links: as for `way_to`.
        folders: all folders of the commit. Anything else may be a link of the user's in a checkout.
    """
    at, rest, hops = "", path.split("/")[::-1], 0
    while rest:
        part = rest.pop()
        if part == "..":
            if at not in folders:
                return "/".join([*filter(None, [at]), part, *rest[::-1]])
            at = at.rpartition("/")[0]
        elif part not in ("", "."):
            at = f"{at}/{part}" if at else part
        if at in links:
            hops += 1
            # What follows more links than the system does may get anywhere.
            if hops > MOST_HOPS or links[at].startswith("/"):
                return "/".join([links[at], *rest[::-1]])
            rest += links[at].split("/")[::-1]
            at = at.rpartition("/")[0]
    return None
