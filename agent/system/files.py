"""Read and write files that a run, an agent, a clone or a server may have touched.

Such a path may hold a symbolic link, a pipe that never ends, a folder or a sparse file of 16 GiB. None of these is
followed, waited for or read: each raises an OSError with a short clause, which callers turn into an error message.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from agent.system.masking import LONGEST_SECRET, without_secrets

# Do not follow a link in the last component, wait for the other end of a pipe, or leak into child processes.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Fail if the part file exists: a link planted under its name is never written through.
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MB = 2**20
TAIL = 8192  # bytes


class Unusable(OSError):
    """A file that is not safe to read. `str` and `strerror` give the clause that follows its name: "is a link"."""

    def __init__(self, clause: str, path: Path | str = "") -> None:
        super().__init__(errno.EINVAL, clause)
        self.path = str(path)

    def __str__(self) -> str:
        return str(self.strerror)


def reason(error: OSError) -> str:
    """Return why a file cannot be read, worded to follow "cannot read PATH: "."""
    return f"it {error}" if isinstance(error, Unusable) else error.strerror or str(error)


def open_plain(path: Path) -> FileIO:
    """Open a regular file for reading. The caller closes it.

    Raises:
        Unusable: `path` is a link, a folder, a pipe or a device.
        OSError: as `open` raises it, including FileNotFoundError.
    """
    try:
        descriptor = os.open(path, READ)
    except ValueError:  # a NUL in the name
        raise Unusable("is not a valid file name", path) from None
    except OSError as error:
        clause = {errno.ELOOP: "is a link", errno.EMLINK: "is a link", errno.ENXIO: "is not a regular file"}.get(
            error.errno or 0
        )
        if clause is None:
            raise
        raise Unusable(clause, path) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unusable("is not a regular file", path)
        return FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        Unusable: the file is larger, or not a regular file.
        OSError: as `open` raises it, including FileNotFoundError.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise Unusable(f"is larger than {_amount(most)}", path)
        parts: list[bytes] = []
        left = most + 1
        # The size may grow during the read, so count the bytes as well.
        while left > 0 and (part := file.read(min(left, MB))):
            parts.append(part)
            left -= len(part)
        if left <= 0:
            raise Unusable(f"is larger than {_amount(most)}", path)
    return b"".join(parts)


def read_end(path: Path, most: int) -> bytes:
    """Return the last `most` bytes of a regular file of any size. Raises as `open_plain` does."""
    with open_plain(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        parts: list[bytes] = []
        left = most
        while left > 0 and (part := file.read(min(left, MB))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def last_lines(path: Path, count: int = 1) -> list[str]:
    """Return the last `count` non-empty lines of a log of any length. Carriage returns count as line ends.

    Secrets are masked. Returns an empty list if it is not a regular file.
    """
    try:
        text = without_secrets(read_end(path, TAIL + LONGEST_SECRET).decode(errors="replace"))[-TAIL:]
    except OSError:
        return []
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()][-count:]


def read_text(path: Path, most: int) -> str:
    """Return the content of a regular file as text, with U+FFFD for invalid UTF-8. Raises as `read_bounded` does."""
    return read_bounded(path, most).decode(errors="replace")


def write_whole(path: Path, content: bytes | str, mode: int | None = None, *, durable: bool = True) -> None:
    """Write a file atomically: it holds the old content or the new, never a part of it.

    A link at `path` is replaced, not followed. The part file has a random name and is removed on failure.

    Args:
        mode: permissions. None keeps those of the file that is replaced; a new file gets those of the umask.
        durable: whether to sync file and folder to disk before returning.
    """
    data = content.encode("utf-8", errors="surrogateescape") if isinstance(content, str) else content
    kept = _mode(path) if mode is None else mode
    part = path.with_name(f".{secrets.token_hex(12)}.part")
    descriptor = os.open(part, NEW, 0o666 if kept is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if kept is not None:
                os.fchmod(file.fileno(), kept)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[bool]:
    """Lock a file during the block, and say whether no other process has locked it. The lock ends with its process.

    Raises:
        OSError: the disk has no locks.
    """
    from filelock import FileLock, Timeout  # imported late: commands that only read do not need it

    lock = FileLock(file)
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def remove_tree(top: Path) -> None:
    """Remove a folder and its content, at any depth and with any permissions. Links are never followed.

    Subfolders are first moved up to the top level, so that no path exceeds the system's limit and no recursion is
    needed. Files that cannot be removed stay, together with the folder.
    """
    if top.is_symlink() or not top.is_dir():
        return
    left = [top]
    while left:
        folder = left.pop()
        with contextlib.suppress(OSError):
            folder.chmod(stat.S_IRWXU)
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(folder)):
                with contextlib.suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        Path(entry.path).unlink()
                        continue
                    inner = Path(entry.path)
                    inner.chmod(stat.S_IRWXU)
                    left.append(inner.rename(top / secrets.token_hex(12)))
        if folder != top:
            with contextlib.suppress(OSError):
                folder.rmdir()
    with contextlib.suppress(OSError):
        top.rmdir()


def held_by(top: Path) -> int:
    """Return the bytes that the files in a folder take of its disk."""
    size, disk = 0, top.stat().st_dev
    for folder, names, files in os.walk(top):
        for name in (*names, *files):
            with contextlib.suppress(OSError):
                about = os.lstat(os.path.join(folder, name))  # noqa: PTH118
                size += about.st_blocks * 512 if about.st_dev == disk else 0
    return size


def _sync_folder(folder: Path) -> None:
    """Sync a rename to disk if the system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _mode(path: Path) -> int | None:
    """Return the permissions of a regular file, or None if there is none at `path`."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return stat.S_IMODE(found.st_mode) & 0o777 if stat.S_ISREG(found.st_mode) else None


def _amount(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size:,} bytes"


def own_outputs() -> list[Path]:
    """Return the regular files to which this process writes its standard output and its errors."""
    found = []
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(number).st_mode):
                found.append(_path_of(number))
    return found


def _path_of(number: int) -> Path:
    if sys.platform == "darwin":
        import fcntl

        return Path(os.fsdecode(fcntl.fcntl(number, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
    return Path(f"/proc/self/fd/{number}").readlink()
