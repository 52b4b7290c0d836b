"""Replaces itself with a command that may write to some folders only, and use no network: Linux's Landlock.

    python -I -S agent/confine.py [--namespaces] [--no-network] [--guard=FOLDER]... FOLDER... -- COMMAND...

Interfaces and constants: Documentation/userspace-api/landlock.rst of the kernel, and the manual pages landlock(7),
namespaces(7) and mount_setattr(2). The restriction holds for the command and all its descendants and cannot be lifted.
Landlock allows whole hierarchies: what is guarded inside a writable one, and a network without UDP too, take
namespaces, which not every system lets a program have. Whatever goes wrong ends with exit code 126 and a sentence on
stderr, before the command has run.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

# System calls, with the same numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, MOUNT_SETATTR = 444, 445, 446, 442
VERSION_FLAG, PATH_BENEATH = 1, 1
CAPBSET_DROP, NO_NEW_PRIVS = 24, 38  # prctl
NEW_MOUNTS, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000  # unshare
BIND_ALL, PRIVATE_ALL = 0x1000 | 0x4000, 0x40000 | 0x4000  # mount
HERE, RECURSIVE, READ_ONLY = -100, 0x8000, 1  # mount_setattr
INTERNET, DATAGRAM, SET_FLAGS, UP_AND_RUNNING = 2, 2, 0x8914, 0x41  # socket, ioctl: netdevice(7)
# The capabilities by which root reads the memory and the environment of other processes: PTRACE, ADMIN, PERFMON.
OVERSEEING = (19, 21, 38)

# Rights over files, by the bit of each and the version of Landlock that brought it. Reading stays free.
WRITE_FILE, TRUNCATE, REFER = 1 << 1, 1 << 14, 1 << 13
REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
TCP = 3  # bind, connect: version 4
SIGNALS = 2  # to processes outside: version 6


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The kernel's version of Landlock; 0 where it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, 0, VERSION_FLAG)))


def confine(folders: Sequence[str], network: bool) -> None:
    """Restrict this process for good: writes to `folders`, TCP unless `network`. Raises OSError."""
    libc, supported = ctypes.CDLL(None, use_errno=True), version()
    if not network and supported < 4:
        raise OSError("the network cannot be closed here")
    handled = WRITE_FILE | REMOVE_AND_MAKE | (REFER if supported >= 2 else 0) | (TRUNCATE if supported >= 3 else 0)
    # An older kernel takes the longer structure as long as what it does not know is zero.
    attributes = (ctypes.c_uint64 * 3)(handled, 0 if network else TCP, SIGNALS if supported >= 6 else 0)
    rules = _checked(libc.syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0))
    for folder in folders:
        opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        _checked(libc.syscall(ADD_RULE, rules, PATH_BENEATH, ctypes.byref(PathBeneath(handled, opened)), 0))
        os.close(opened)
    for capability in OVERSEEING:
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    _checked(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(RESTRICT_SELF, rules, 0))
    os.close(rules)


def separate(guarded: Sequence[str], network: bool) -> None:
    """Move to mounts of its own, where `guarded` is read-only, and to a network of its own. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    apart = NEW_MOUNTS | (0 if network else NEW_NETWORK)
    # Root does without new users: it would lose its rights over everybody else's files.
    if libc.unshare(apart) != 0:
        user, group = os.getuid(), os.getgid()
        _checked(libc.unshare(apart | NEW_USER))
        _write("setgroups", "deny")
        _write("uid_map", f"{user} {user} 1")
        _write("gid_map", f"{group} {group} 1")
    _checked(libc.mount(b"none", b"/", None, PRIVATE_ALL, None))
    for place in map(os.fsencode, guarded):
        _checked(libc.mount(place, place, None, BIND_ALL, None))
        attributes = (ctypes.c_uint64 * 4)(READ_ONLY, 0, 0, 0)
        _checked(libc.syscall(MOUNT_SETATTR, HERE, place, RECURSIVE, ctypes.byref(attributes), 32))
    if not network:
        _raise_loopback(libc)


def _raise_loopback(libc: ctypes.CDLL) -> None:
    """Programs talk to their own processes through it; in a new network it is down."""
    socket = _checked(libc.socket(INTERNET, DATAGRAM, 0))
    request = b"lo".ljust(16, b"\0") + UP_AND_RUNNING.to_bytes(2, sys.byteorder) + bytes(22)
    _checked(libc.ioctl(socket, SET_FLAGS, ctypes.create_string_buffer(request)))
    os.close(socket)


def _write(name: str, content: str) -> None:
    with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123  # pathlib takes longer to import than all else
        file.write(content)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def main() -> None:
    arguments, command = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    folders = [a for a in arguments if not a.startswith("--")]
    guarded = [a.removeprefix("--guard=") for a in arguments if a.startswith("--guard=")]
    network = "--no-network" not in arguments
    try:
        if "--namespaces" in arguments:
            separate(guarded, network)
        # A network of its own is closed already, and TCP within it does no harm.
        confine(folders, network or "--namespaces" in arguments)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"the sandbox could not be set up: {error}", file=sys.stderr)
        sys.exit(126)


if __name__ == "__main__":
    main()
