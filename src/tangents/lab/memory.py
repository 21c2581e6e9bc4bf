"""Memory of a process that does nothing but compute runs."""

import ctypes

KEPT, BLOCK = 2**30, 2**25  # bytes


def keep_freed_memory() -> None:
    """Has the C library keep what is freed at the end of its memory, up to `KEPT` bytes.

    Each page that is given back must be fetched and cleared again. Blocks of `BLOCK` bytes and more
    that do not fit into what is kept are fetched by themselves and do go back. This takes the place
    of settings in the environment (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_), such as dask's.
    For the whole process, and for good: the command line and a sweep's workers call it, a library
    must not. Only glibc can be told; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return
    mallopt(-1, KEPT)  # M_TRIM_THRESHOLD
    mallopt(-3, BLOCK)  # M_MMAP_THRESHOLD
