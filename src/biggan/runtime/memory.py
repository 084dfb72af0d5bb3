"""Memory of the process and of the machine."""

import ctypes
import os
import sys
from pathlib import Path

import torch

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container finds how much memory it may use: version 2, version 1."""


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of this process so far in bytes: allocated on a CUDA device, or resident in main memory for the CPU. None
    where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def keep_freed_memory() -> bool:
    """Make the C library keep large freed blocks for reuse instead of returning them to the system, which would map and
    clear them again page by page in the next training step. For training on a CPU, once per process. Returns whether the C
    library supports it (glibc does).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in malloc.h
    trim_set = set_option(trim_threshold, (1 << 31) - 1)
    mmap_set = set_option(mmap_threshold, 1 << 30) or set_option(mmap_threshold, 1 << 25)  # older glibc takes at most 32 MiB
    return bool(trim_set and mmap_set)


def total_memory() -> int | None:
    """Main memory in bytes that this machine has, or that this container may use if that is less. None where the system does
    not tell."""
    found = []
    if hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in CGROUP_LIMITS:
        text = file.read_text().strip() if file.exists() else "max"
        found += [int(text)] if text.isdecimal() else []
    return min((size for size in found if size > 0), default=None)


def gibibytes(size: int) -> str:
    """A number of bytes for a message: "3.2 GiB"."""
    return f"{size / 2**30:.3g} GiB" if size < 10000 * 2**30 else f"{size / 2**30:.2g} GiB"
