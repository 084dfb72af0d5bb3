"""Reading ahead: the same items in the same order, errors where the item was wanted, and a thread that ends."""

import gc
import itertools
import subprocess
import sys

import pytest
import torch
from conftest import write_pictures

from biggan.data.dataset import open_source
from biggan.data.read_ahead import ReadAhead


def test_errors_come_after_the_items_before_them():
    items = ReadAhead(iter([lambda: 0, lambda: 1]))
    assert [next(items)(), next(items)()] == [0, 1]
    with pytest.raises(StopIteration):
        next(items)
    numbers = ReadAhead(6 // (2 - number) for number in itertools.count())
    assert [next(numbers), next(numbers)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(numbers)
    numbers.thread.join(10)
    assert not numbers.thread.is_alive()


@pytest.mark.parametrize("how", ["closed", "collected"])
def test_the_thread_ends_with_the_stream(how):
    numbers = ReadAhead(itertools.count())
    assert next(numbers) == 0
    thread = numbers.thread
    if how == "closed":
        numbers.close()
    del numbers
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_memory_mapped_set_is_read_ahead_with_the_bits_of_one_in_memory(tmp_path):
    write_pictures(tmp_path / "set", {"a": 7, "b": 4}, size=(16, 16))
    sources = [open_source(str(tmp_path / "set"), 16, flip=True, cache=tmp_path / "cache") for _ in range(2)]
    assert [source.from_cache for source in sources] == [False, True]
    memory, mapped = (source.stream(4, seed=3, start_image=8) for source in sources)
    assert (isinstance(memory, ReadAhead), isinstance(mapped, ReadAhead)) == (False, True)
    for (images, labels), (others, names) in itertools.islice(zip(memory, mapped, strict=False), 12):
        assert torch.equal(images, others)
        assert torch.equal(labels, names)
    mapped.close()


@pytest.mark.parametrize("work", ["torch.randn(300, 300) @ torch.randn(300, 300)", "torch.zeros(10)"])
def test_a_process_that_forgets_the_stream_ends_cleanly(work):
    """Were the thread still in compiled code when the interpreter ends, the process would abort."""
    program = f"""
import itertools, torch
from biggan.data.read_ahead import ReadAhead
kept = ReadAhead(({work} for _ in itertools.count()), ahead=99)
next(kept)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
