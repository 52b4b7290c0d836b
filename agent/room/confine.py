"""Enter a room, run a command in it, and kill every process that the command leaves behind (Linux).

    python -I -S -c ENTER COMMAND...

ENTER holds the spec and imports this module, so that Python compiles it only once. Every run waits for this module, so
it imports almost nothing: `json`, `signal` and `contextlib` alone would take longer than all of its work.

The spec is a dict of plain values. `cwd` is required, and with `binds` also `root` and `scratch`. Another missing key
means no:

    cwd          the folder in which the command starts, as it sees it
    confined     restrict the command with Landlock and seccomp
    inner        another program has made the room's own root already (bubblewrap)
    binds        [source, target, kind, layer] for a room with its own root, parents first. The room then has its own
                 namespaces for mounts, processes and shared memory. kind: "ro", "rw", or "cow", which is writable but
                 stores the writes in `layer`, a folder in one of `scratch`
    links        [target, path] of symbolic links in that root
    hidden       paths in that root that appear empty
    root         an empty folder on which that root is mounted
    scratch      folders for the layers, of which the first that can hold one is used
    kept         [layer, path in it] of files that a new layer leaves out, and that are copied from a layer in memory to
                 the first of `scratch`
    read, write  paths that Landlock allows to read, and to read and write, in a room without its own root
    listed       folders whose names Landlock allows to list, with those in them
    no_network   an empty network namespace if the room has namespaces, else no TCP
    report       an inherited file descriptor that receives the names of leftover processes, one per line

Interfaces and constants: Documentation/userspace-api/landlock.rst and filesystems/overlayfs.rst of the kernel, and the
manual pages landlock(7), namespaces(7), mount_setattr(2), pivot_root(2), seccomp(2). The restrictions apply to the
command and all its descendants and cannot be lifted. If setting them up fails, the process exits with code 126 and a
message on stderr before the command has run.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

TYPE_CHECKING = False  # importing `typing` would take longer than everything else here
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

ENTER = "import sys; sys.path.append({folder!a}); import confine; confine.main({spec})"

# System calls with the same number on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, MOUNT_SETATTR = 444, 445, 446, 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
# Shared memory, queues and keys outlive the processes that created them: shmget, msgget, semget, mq_open, add_key,
# request_key, keyctl. The first number is that of the architecture in the audit header.
LASTING = {
    "x86_64": (0xC000003E, (29, 68, 64, 240, 248, 249, 250)),
    "aarch64": (0xC00000B7, (194, 186, 190, 180, 217, 218, 219)),
}
# Landlock does not limit who writes to the attributes of files, in which a run could leave a note for the next one:
# setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr, the chown family, setxattrat, removexattrat,
# and io_uring_setup, which does the same without a call.
ATTRIBUTES = {
    "x86_64": (188, 189, 190, 197, 198, 199, 92, 93, 94, 260, 463, 466, 425),
    "aarch64": (5, 6, 7, 14, 15, 16, 54, 55, 463, 466, 425),
}
# The architectures of 32-bit programs, which have the same calls under other numbers. A translated program, as of
# Rosetta, has that of the machine below it, and must run.
SMALLER = {"x86_64": 0x40000003, "aarch64": 0x40000028}
VERSION_FLAG, PATH_BENEATH = 1, 1
# signal(7), with the same numbers on both architectures above
HANGUP, INTERRUPT, KILL, BROKEN_PIPE, TERMINATE, STOP, FILE_TOO_LARGE = 1, 2, 9, 13, 15, 19, 25
ENDING, OF_PYTHON = (TERMINATE, INTERRUPT, HANGUP), (BROKEN_PIPE, FILE_TOO_LARGE)
DEFAULT, IGNORE = 0, 1
# prctl
PARENT_DEATH_SIGNAL, SECCOMP, CAPBSET_DROP, SUBREAPER, NO_NEW_PRIVS = 1, 22, 24, 36, 38
# unshare
NEW_MOUNTS, NEW_IPC, NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
# mount
NO_SETUID, NO_DEVICES, BIND_ALL, PRIVATE_ALL, DETACH = 2, 4, 0x1000 | 0x4000, 0x40000 | 0x4000, 2
HERE, RECURSIVE, SET_READ_ONLY, SET_NO_SETUID, SET_NO_DEVICES = -100, 0x8000, 1, 2, 4  # mount_setattr
INTERNET, DATAGRAM, SET_FLAGS, UP_AND_RUNNING = 2, 2, 0x8914, 0x41  # socket, ioctl: netdevice(7)
# Settings of the machine in /proc, which root could change with no capability at all.
OF_MACHINE = ("sys", "irq", "bus", "fs", "acpi", "scsi", "mtrr", "sysrq-trigger")
# Capabilities that root keeps, to own, read and write the room's files: CHOWN, DAC_OVERRIDE, FOWNER, FSETID.
KEPT_CAPABILITIES, MOST_CAPABILITIES = (0, 1, 3, 4), 64

# Landlock's rights over files, by bit: TRUNCATE needs version 3, REFER version 2.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, REFER = 1, 2, 4, 8, 1 << 14, 1 << 13
REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
TCP = 3  # bind, connect: version 4
ABSTRACT_SOCKETS_AND_SIGNALS = 3  # to processes outside: version 6

# Processes that end within this time after the command do not count as leftovers.
LEAVING_SECONDS, KILLING_SECONDS = 0.5, 10.0
IN_MEMORY = "/.scratch"  # in the room's own root
# File systems for data, also over the network, and those of FUSE that are not.
OF_DISKS = frozenset(
    "ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs jfs ocfs2 reiserfs ntfs ntfs3 exfat vfat msdos hfsplus apfs iso9660 "
    "squashfs erofs overlay ecryptfs tmpfs ramfs nfs nfs4 cifs smb3 ceph lustre gpfs beegfs wekafs 9p virtiofs vboxsf "
    "fakeowner fuseblk".split()
)
NO_DISKS = ("fuse.lxcfs", "fuse.portal", "fuse.gvfsd-fuse")
LARGEST_KEPT, CHUNK = 64 * 2**20, 2**20


class PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class Filter(ctypes.Structure):
    """One instruction of a seccomp filter: struct sock_filter."""

    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_uint16), ("filters", ctypes.POINTER(Filter)))


def version() -> int:
    """Return the kernel's version of Landlock; 0 if it does not support it."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, 0, VERSION_FLAG)))


# ----------------------------------------------------------------------------------------------------------------------
# Rooms with their own root


def separate(network: bool) -> bool:
    """Enter new namespaces for mounts, processes and shared memory.

    Args:
        network: whether to stay in the machine's network namespace.

    Returns:
        Whether a user namespace was needed as well.
    """
    libc = _libc()
    apart = NEW_MOUNTS | NEW_IPC | NEW_PROCESSES | (0 if network else NEW_NETWORK)
    # Root needs no user namespace, in which it would lose its rights over other users' files.
    if libc.unshare(apart) == 0:
        return False
    user, group = os.getuid(), os.getgid()
    _checked(libc.unshare(apart | NEW_USER))
    _write("setgroups", "deny")
    _write("uid_map", f"{user} {user} 1")
    _write("gid_map", f"{group} {group} 1")
    return True


def build_root(spec: dict[str, Any], users: bool) -> None:
    """Mount everything that the room shows and make it the root of this process. Raises OSError."""
    root = spec["root"]
    _mount(None, "/", None, PRIVATE_ALL)
    _mount("tmpfs", root, "tmpfs", NO_SETUID | NO_DEVICES, "mode=755")
    # What is shown in it lies on top.
    _mount("tmpfs", _place(root, "/dev/shm", True), "tmpfs", NO_SETUID | NO_DEVICES, "mode=1777")
    disks = _mount_points()
    for source, target, kind, layer in spec["binds"]:
        place = _place(root, target, os.path.isdir(source))
        # The last one is in memory.
        layers = [f"{each}/{layer}" for each in (*spec["scratch"], f"{root}{IN_MEMORY}")]
        fresh = not any(os.path.lexists(f"{each}/upper") for each in layers)
        if kind == "cow" and _overlay(source, place, layers, users):
            if fresh:
                _leave_out(place, [path for name, path in spec.get("kept", ()) if name == layer])
            _show_disks(source, place, disks)
            continue
        _mount(source, place, None, BIND_ALL)
        # A device is written to although its mount is read-only, which protects its mode, owner and times from root.
        device = target == "/dev" or target.startswith("/dev/")
        limits = SET_NO_SETUID | (0 if device else SET_NO_DEVICES)
        _limit(place, limits | (SET_READ_ONLY if device or kind != "rw" else 0))
    for target, path in spec.get("links", ()):
        try:
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.symlink(target, root + path)
        except FileExistsError:
            pass
    for path in spec.get("hidden", ()):
        _hide(root, path)
    _mount("proc", _place(root, "/proc", True), "proc", NO_SETUID | NO_DEVICES)
    for name in OF_MACHINE:
        _lock(f"{root}/proc/{name}")
    os.chdir(root)
    _checked(_libc().syscall(PIVOT_ROOT[os.uname().machine], b".", b"."))
    _checked(_libc().umount2(b".", DETACH))
    os.chdir("/")


def _place(root: str, target: str, folder: bool) -> str:
    """Create an empty folder or file as a mount point and return its path."""
    place = root + target
    if not os.path.lexists(place):
        os.makedirs(place if folder else os.path.dirname(place), exist_ok=True)
        if not folder:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    return place


def _overlay(source: str, place: str, layers: Sequence[str], users: bool) -> bool:
    """Mount `source` with its writes kept in the first of `layers` whose file system supports it.

    Returns whether it succeeded.
    """
    lower = os.open(source, os.O_PATH | os.O_DIRECTORY)
    try:
        for layer in layers:
            upper, work = f"{layer}/upper", f"{layer}/work"
            try:
                for folder in (upper, work):
                    os.makedirs(folder, exist_ok=True)
                os.chmod(upper, os.stat(source).st_mode & 0o7777)
                options = f"lowerdir=/proc/self/fd/{lower},upperdir={upper},workdir={work}"
                _mount("overlay", place, "overlay", NO_SETUID | NO_DEVICES, options + (",userxattr" if users else ""))
                return True
            except OSError:
                _remove_empty(upper, work, layer)  # who looks for the writes looks where an upper folder is
    finally:
        os.close(lower)
    return False


def _leave_out(place: str, paths: Sequence[str]) -> None:
    """Remove the results of an earlier run from a layer at `place`, so that no other one counts with them."""
    for path in paths:
        if f"{os.path.realpath(os.path.dirname(f'{place}/{path}'))}/".startswith(f"{os.path.realpath(place)}/"):
            _ignoring(os.unlink, f"{place}/{path}")


def _mount_points() -> list[str]:
    """Return the paths at which disks are mounted, parents first: none that shows processes, devices or sockets."""
    machine = {os.stat(place).st_dev for place in ("/dev", "/run", "/proc", "/sys") if os.path.ismount(place)}
    points = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            about, _, rest = line.partition(" - ")
            kind, (major, minor) = rest.split(" ")[0], about.split(" ")[2].split(":")
            of_data = kind in OF_DISKS or (kind.startswith("fuse.") and kind not in NO_DISKS)
            if of_data and os.makedev(int(major), int(minor)) not in machine:
                points.append(about.split(" ")[4])
    for written, meant in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        points = [point.replace(written, meant) for point in points]
    return sorted(points)


def _show_disks(source: str, place: str, disks: Sequence[str]) -> None:
    """Show, read-only, the file systems that are mounted in `source`: an overlay of it has their empty folders."""
    real, last = os.path.realpath(source), None
    for disk in disks:
        if not disk.startswith(f"{real}/") or (last is not None and f"{disk}/".startswith(f"{last}/")):
            continue
        last, there = disk, place + disk[len(real) :]
        if os.path.lexists(disk) and os.path.lexists(there):  # another one may be mounted over it
            _mount(disk, there, None, BIND_ALL)
            _limit(there, SET_READ_ONLY | SET_NO_SETUID | SET_NO_DEVICES)


def _remove_empty(*folders: str) -> None:
    for folder in folders:
        _ignoring(os.rmdir, folder)


def _keep(kept: Sequence[Sequence[str]], store: int) -> None:
    """Copy files from layers in memory, which end with this process, to the same places in the folder `store`."""
    for layer, path in kept:
        upper, place = f"{IN_MEMORY}/{layer}/upper", f"{layer}/upper/{path}"
        if not f"{os.path.realpath(os.path.dirname(f'{upper}/{path}'))}/".startswith(f"{upper}/"):
            continue  # a link of the run's
        _ignoring(_copy, f"{upper}/{path}", place, store)


def _copy(source: str, place: str, store: int) -> None:
    """Copy a regular file of bounded size to a place in the folder `store`, with its time."""
    file = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        about = os.fstat(file)
        if about.st_mode & 0o170000 != 0o100000 or about.st_size > LARGEST_KEPT:
            return
        for end, letter in enumerate(place):
            if letter == "/":
                _ignoring(os.mkdir, place[:end], dir_fd=store)
        _ignoring(os.unlink, place, dir_fd=store)
        target = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=store)
        try:
            while chunk := os.read(file, CHUNK):
                os.write(target, chunk)
            os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(file)


def _ignoring(call: Any, *arguments: Any, **more: Any) -> None:
    try:
        call(*arguments, **more)
    except OSError:
        pass


def _hide(root: str, path: str) -> None:
    if os.path.isdir(root + path):
        _mount("tmpfs", root + path, "tmpfs", NO_SETUID | NO_DEVICES, "mode=755,size=4k")
        _limit(root + path, SET_READ_ONLY)
    elif os.path.exists(root + path):
        _mount("/dev/null", root + path, None, BIND_ALL)
        _limit(root + path, SET_READ_ONLY)


def _lock(place: str) -> None:
    """Make a path read-only if it exists."""
    if os.path.exists(place):
        _mount(place, place, None, BIND_ALL)
        _limit(place, SET_READ_ONLY)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    named = [None if word is None else os.fsencode(word) for word in (source or "none", target, kind, options)]
    if _libc().mount(named[0], named[1], named[2], ctypes.c_ulong(flags), named[3]) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {target}: {os.strerror(number)}")


def _limit(place: str, attributes: int) -> None:
    asked = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    _checked(_libc().syscall(MOUNT_SETATTR, HERE, os.fsencode(place), RECURSIVE, ctypes.byref(asked), 32))


def _raise_loopback() -> None:
    """Bring up the loopback interface, which programs use to talk to their own processes."""
    libc = _libc()
    socket = _checked(libc.socket(INTERNET, DATAGRAM, 0))
    request = b"lo".ljust(16, b"\0") + UP_AND_RUNNING.to_bytes(2, sys.byteorder) + bytes(22)
    _checked(libc.ioctl(socket, SET_FLAGS, ctypes.create_string_buffer(request)))
    os.close(socket)


# ----------------------------------------------------------------------------------------------------------------------
# Restrictions of one process and its descendants


def restrict(
    read: Sequence[str], write: Sequence[str], network: bool, everything: bool = False, listed: Sequence[str] = ()
) -> None:
    """Restrict the files that this process may access, its network, and its signals to processes outside.

    Args:
        read: paths that it may read and execute.
        write: paths that it may read, execute and write.
        network: whether TCP stays open.
        everything: leave all files accessible, as the room's own root limits them already.
        listed: folders that it may list, with those in them.

    Raises:
        OSError: the kernel does not support a restriction.
    """
    libc, supported = _libc(), version()
    if not network and supported < 4:
        raise OSError("this kernel cannot close the network (Landlock 4 is required)")
    writing = WRITE_FILE | REMOVE_AND_MAKE | (REFER if supported >= 2 else 0) | (TRUNCATE if supported >= 3 else 0)
    reading = EXECUTE | READ_FILE | READ_DIR
    handled = 0 if everything else reading | writing
    scoped = ABSTRACT_SOCKETS_AND_SIGNALS if supported >= 6 else 0
    if not (handled or scoped or not network):
        return
    # An older kernel accepts the longer structure as long as the fields that it does not know are zero.
    attributes = (ctypes.c_uint64 * 3)(handled, 0 if network else TCP, scoped)
    rules = _checked(libc.syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0))
    allowing = (read, reading), (write, reading | writing), (listed, READ_DIR)
    for places, rights in () if everything else allowing:
        for place in places:
            try:
                opened = os.open(place, os.O_PATH | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue
            allowed = rights if os.path.isdir(place) else rights & OF_FILES
            _checked(libc.syscall(ADD_RULE, rules, PATH_BENEATH, ctypes.byref(PathBeneath(allowed, opened)), 0))
            os.close(opened)
    _checked(libc.syscall(RESTRICT_SELF, rules, 0))
    os.close(rules)


def give_up_rights() -> None:
    """Drop root's capabilities beyond its files, and forbid gaining any through setuid programs. Raises OSError."""
    libc = _libc()
    for capability in range(MOST_CAPABILITIES):
        if capability not in KEPT_CAPABILITIES:
            libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    _checked(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))


def refuse_lasting_memory(attributes: bool) -> None:
    """Block the system calls that create kernel objects, other than files, that outlive the processes of a run.

    Args:
        attributes: whether to block those that write to extended attributes and owners of files, too.
    """
    machine = os.uname().machine
    if machine not in LASTING or os.uname().sysname != "Linux":
        return
    architecture, lasting = LASTING[machine]
    numbers = (*lasting, *(ATTRIBUTES[machine] if attributes else ()))
    load, equal, above, give = 0x20, 0x15, 0x35, 0x06  # BPF: LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET|K
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
    end = len(numbers) + 1
    program = [
        Filter(load, 0, 0, 4),
        Filter(equal, 1, 0, architecture),
        Filter(equal, end + 2, end + 1, SMALLER[machine]),
        Filter(load, 0, 0, 0),
        Filter(above, end, 0, 0x40000000),  # x32, which has the same calls under other numbers
        *(Filter(equal, end - 1 - index, 0, number) for index, number in enumerate(numbers)),
        Filter(give, 0, 0, allow),
        Filter(give, 0, 0, refuse),
    ]
    filters = (Filter * len(program))(*program)
    wanted = Program(len(program), filters)
    # Ignore the result: a kernel may lack seccomp.
    _libc().prctl(SECCOMP, 2, ctypes.byref(wanted), 0, 0)


# ----------------------------------------------------------------------------------------------------------------------
# The command


def supervise(command: Sequence[str], spec: dict[str, Any]) -> int:
    """Run the command, wait for it, kill every process that it has started, and return its exit code.

    This process is a subreaper, so daemons become its children whatever they do to their parents, sessions and
    environment.
    """
    report = spec.get("report")
    main = os.fork()
    if main == 0:
        _enter(command, spec)
    code = 0
    while True:
        pid, status = os.wait()
        if pid == main:
            code = os.waitstatus_to_exitcode(status)
            break
    deadline = time.monotonic() + LEAVING_SECONDS
    while (left := _names(os.getpid())) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.005)
    if report is not None:
        try:
            os.write(report, "".join(f"{name}\n" for name in left[:100]).encode(errors="replace"))
        except OSError:
            pass
    _kill_all(os.getpid())
    return code if code >= 0 else 128 - code


def _enter(command: Sequence[str], spec: dict[str, Any]) -> None:
    """Apply the restrictions and replace this process by the command."""
    try:
        if spec.get("report") is not None:
            os.close(spec["report"])
        os.chdir(spec["cwd"])
        own = "binds" in spec or bool(spec.get("inner"))
        if spec.get("confined"):
            give_up_rights()
            open_network, listed = own or not spec.get("no_network"), spec.get("listed", ())
            restrict(spec.get("read", ()), spec.get("write", ()), open_network, everything=own, listed=listed)
            refuse_lasting_memory(attributes=not own and not spec.get("attributes"))
        _answer_signals((*ENDING, *OF_PYTHON), DEFAULT)
        os.execvp(command[0], [*command])
    except OSError as error:
        _fail(error)


def _kill_all(parent: int) -> None:
    deadline = time.monotonic() + KILLING_SECONDS
    while (found := list(_descendants(parent))) and time.monotonic() < deadline:
        # Stop them all first, so that none can start another while the rest are being killed.
        for number in (STOP, KILL):
            for pid, _ in found:
                try:
                    os.kill(pid, number)
                except OSError:
                    pass
        _reap()
        time.sleep(0.002)


def _names(parent: int) -> list[str]:
    return [name for _, name in _descendants(parent)]


def _descendants(parent: int) -> Iterator[tuple[int, str]]:
    """Yield process id and name of all descendants of `parent` that are still alive."""
    children: dict[int, list[tuple[int, str, str]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    before, _, after = file.read().rpartition(")")
            except OSError:
                continue
            state, above = after.split()[:2]
            children.setdefault(int(above), []).append((int(entry), before.partition("(")[2], state))
    waiting = [parent]
    while waiting:
        for pid, name, state in children.get(waiting.pop(), ()):
            waiting.append(pid)
            if state not in "ZX":
                yield pid, name


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


# ----------------------------------------------------------------------------------------------------------------------


def _answer_signals(numbers: Sequence[int], how: int) -> None:
    libc = _libc()
    for number in numbers:
        libc.signal(number, ctypes.c_void_p(how))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _write(name: str, content: str) -> None:
    with open(f"/proc/self/{name}", "w") as file:
        file.write(content)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _fail(error: OSError) -> None:
    _answer_signals(OF_PYTHON, IGNORE)  # the reader of stderr may be gone
    try:
        os.write(2, f"the room could not be set up: {error.strerror or error}\n".encode())
    except OSError:
        pass
    os._exit(126)


def main(spec: dict[str, Any]) -> None:
    command = sys.argv[1:]
    # Whatever ends the run sends TERM to all of it; this process must stay until the others are gone.
    _answer_signals(ENDING, IGNORE)
    try:
        _checked(_libc().prctl(SUBREAPER, 1, 0, 0, 0))
        if "binds" not in spec:
            os._exit(supervise(command, spec))
        users = separate(not spec.get("no_network"))
        first = os.fork()
        if first:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) % 256)
        _checked(_libc().prctl(PARENT_DEATH_SIGNAL, KILL, 0, 0, 0))
        store = os.open(spec["scratch"][0], os.O_PATH | os.O_DIRECTORY) if spec.get("kept") else -1
        build_root(spec, users)
        if spec.get("no_network"):
            _raise_loopback()
        code = supervise(command, spec)
        _keep(spec.get("kept", ()), store)
        os._exit(code)
    except OSError as error:
        _fail(error)
