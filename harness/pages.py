"""Memory that stays with the process and lies in huge pages, for MLX on a Linux CPU.

MLX takes each array from malloc and gives it back. glibc then returns large ones to the kernel, which clears each page
again when the next array touches it: 10,000 faults in a step of the cpu profile, a fifteenth of its time. Pages of 2 MB
instead of 4 KB save as much again.
"""

import ctypes
import sys

RESERVED = 2**30  # bytes of addresses; memory is taken when it is touched
# From malloc.h and mman.h of Linux.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
MADV_HUGEPAGE = 14
PAGE = 2**21


def keep() -> bool:
    """Make malloc keep what is freed, in huge pages where Linux has any left. Call it before MLX computes anything.

    Returns:
        Whether it did. It never raises, as MLX works without it.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # not glibc
        return False
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    # No array in a mapping of its own, and nothing back to the kernel.
    if not (libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)):
        return False
    # Advice holds for addresses that the heap has already, so it takes more than it needs, once.
    libc.mallopt(M_TOP_PAD, RESERVED)
    libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(RESERVED // 8))))
    libc.mallopt(M_TOP_PAD, RESERVED // 8)
    end: int = libc.sbrk(ctypes.c_ssize_t(0))
    begin = -(-(end - RESERVED) // PAGE) * PAGE
    return not libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_HUGEPAGE)
