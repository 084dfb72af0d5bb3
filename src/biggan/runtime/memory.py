"""Memory of the process and of the machine."""

import ctypes
import os
import resource

import torch


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process so far in bytes: allocated on a CUDA device, or resident in main memory for the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def keep_freed_memory() -> bool:
    """Make the C library keep large freed blocks for reuse instead of returning them to the system, which would map and
    clear them again page by page in the next training step. For training on a CPU, once per process. Returns whether the C
    library supports it (glibc does).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h
    trim_set = set_option(trim_threshold, (1 << 31) - 1)
    mmap_set = set_option(mmap_threshold, 1 << 30) or set_option(mmap_threshold, 1 << 25)  # older glibc takes at most 32 MiB
    return bool(trim_set and mmap_set)


def total_memory() -> int:
    """Main memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
