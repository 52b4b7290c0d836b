"""Replaces itself with a command that may write to some folders only, and use no network: Linux's Landlock.

    python -I -S agent/confine.py [--no-network] FOLDER... -- COMMAND...

Interfaces and constants: Documentation/userspace-api/landlock.rst of the kernel. The restriction holds for the command
and all its descendants and cannot be lifted. Whatever goes wrong ends with exit code 126 and a sentence on stderr,
before the command has run.
"""

from __future__ import annotations

import ctypes
import os
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture
VERSION_FLAG, PATH_BENEATH, NO_NEW_PRIVS = 1, 1, 38
NEW_USER_AND_NETWORK = 0x10000000 | 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET

# Rights over files, by the bit of each and the version of Landlock that brought it. Reading stays free.
WRITE_FILE, TRUNCATE, REFER = 1 << 1, 1 << 14, 1 << 13
REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
TCP = 3  # bind, connect: version 4


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The kernel's version of Landlock; 0 where it has none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, 0, VERSION_FLAG)))


def confine(folders: list[str], network: bool) -> None:
    """Restrict this process for good. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments: object) -> int:
        result = int(libc.syscall(*arguments))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    supported = version()
    restrict_tcp = not network and not _leave_network(libc)
    if restrict_tcp and supported < 4:
        raise OSError("the network cannot be closed here")
    handled = WRITE_FILE | REMOVE_AND_MAKE | (REFER if supported >= 2 else 0) | (TRUNCATE if supported >= 3 else 0)
    attributes = (ctypes.c_uint64 * 2)(handled, TCP if restrict_tcp else 0)
    rules = call(CREATE_RULESET, ctypes.byref(attributes), 16 if restrict_tcp else 8, 0)
    for folder in folders:
        opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        call(ADD_RULE, rules, PATH_BENEATH, ctypes.byref(PathBeneath(handled, opened)), 0)
        os.close(opened)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    call(RESTRICT_SELF, rules, 0)
    os.close(rules)


def _leave_network(libc: ctypes.CDLL) -> bool:
    """Move to a network of its own, without any interface up. Returns whether the system allows it."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER_AND_NETWORK) != 0:
        return False
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123  # pathlib takes longer to import than all else
            file.write(content)
    return True


def main() -> None:
    arguments, command = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    try:
        confine([a for a in arguments if a != "--no-network"], network="--no-network" not in arguments)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"the sandbox could not be set up: {error}", file=sys.stderr)
        sys.exit(126)


if __name__ == "__main__":
    main()
