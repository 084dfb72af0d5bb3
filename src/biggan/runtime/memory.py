"""Memory of this machine and of this process."""

import ctypes
import os
import resource

import torch


def peak_memory(device: torch.device) -> int:
    """Bytes: the most this process has held, on the device or, on a CPU, in memory (all settings together)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def keep_freed_memory() -> bool:
    """Let the C library keep large freed blocks for the next step instead of giving them back to the system, which would
    hand them out again page by page. For training on a CPU, once per process; whether the library can (glibc) is returned.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    kept = set_option(trim_threshold, (1 << 31) - 1)
    mapped = set_option(mmap_threshold, 1 << 30) or set_option(mmap_threshold, 1 << 25)  # older glibc takes at most 32 MiB
    return bool(kept and mapped)


def total_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
