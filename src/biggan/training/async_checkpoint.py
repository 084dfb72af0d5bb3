"""Writing checkpoints in a thread while training goes on."""

from threading import Thread
from typing import Any

import torch

from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import Tensors


class AsyncCheckpointWriter:
    """Writes the checkpoints of a run in a thread: training waits only for the copy of the tensors, or for the checkpoint
    before, if that is still being written. `keep`: how many of the newest stay; `keep_history`: and a few that reach back to
    half of the steps, for rolling back."""

    def __init__(self, run_dir: RunDir, *, keep: int, keep_history: bool = False) -> None:
        self.run_dir = run_dir
        self.keep, self.keep_history = keep, keep_history
        self.thread: Thread | None = None
        self.error: Exception | None = None
        self.pinned: Tensors = {}  # memory that a GPU copies to at full speed, kept for the next checkpoint

    def write(self, step: int, tensors: Tensors, counters: dict[str, Any]) -> None:
        """Copy the tensors and begin to write. Raises CheckpointError when the disk did not take the one before."""
        self.finish()
        copies = self.copy(tensors)
        thread = Thread(target=self.save, args=(step, copies, counters), name="checkpoint")
        try:
            thread.start()
            self.thread = thread
        except RuntimeError:  # the system allows no more threads
            self.save(step, copies, counters)

    def copy(self, tensors: Tensors) -> Tensors:
        """The tensors as they are now, on the CPU and contiguous, as files have them: the one copy that is made of them."""
        copies = {}
        for name, tensor in tensors.items():
            on_gpu, known = tensor.is_cuda, self.pinned.get(name)
            if known is None or known.shape != tensor.shape or known.dtype != tensor.dtype:
                known = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
            copies[name] = known.copy_(tensor.detach(), non_blocking=on_gpu)
            if on_gpu:
                self.pinned[name] = known
        if self.pinned:
            torch.cuda.synchronize()
        return copies

    def save(self, step: int, tensors: Tensors, counters: dict[str, Any]) -> None:
        """What the thread does."""
        try:
            self.run_dir.save(step, tensors, counters, keep=self.keep, keep_history=self.keep_history)
        except Exception as error:  # whatever it is, it is raised where the checkpoint was wanted
            self.error = error

    def finish(self) -> None:
        """Wait for what is being written. Raises what went wrong, CheckpointError when the disk did not take it."""
        self.join()
        error, self.error = self.error, None
        if error is not None:
            raise error

    def join(self) -> None:
        """Wait for what is being written, whatever becomes of it."""
        if self.thread is not None:
            self.thread.join()
        self.thread = None
