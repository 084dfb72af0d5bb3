"""A look at a pickle before it is read: PyTorch's restricted reader runs no code of it, but can be made to exhaust the stack
or the memory."""

import pickletools
from typing import IO, Any

MAX_DEPTH = 100  # containers in containers; state dicts have some five

MARK = -1  # on the stack of depths


def check_pickle(stream: IO[bytes]) -> None:
    """Walk over one pickle, from where the stream stands. Raises ValueError if it is damaged, nests containers deeper than
    MAX_DEPTH, which would exhaust the stack of the process, or makes byte arrays, which take as much memory as it says."""
    stack: list[int] = []
    memo: dict[Any, int] = {}
    for code, argument, _ in pickletools.genops(stream):
        if isinstance(argument, str) and argument.rpartition(" ")[2] == "bytearray":
            raise ValueError("it holds a byte array, which is not read")
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if code.name == "MEMOIZE" else argument] = top(stack)
        elif code.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument, 0))
        elif code.name == "MARK":
            stack.append(MARK)
        elif code.name == "DUP":
            stack.append(top(stack))
        elif code.name != "STOP":
            depth = depth_after(code, stack)
            if depth > MAX_DEPTH:
                raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
            stack += [depth] * len(code.stack_after)


def top(stack: list[int]) -> int:
    """The depth of the last value on the stack."""
    return stack[-1] if stack else 0


def depth_after(code: pickletools.OpcodeInfo, stack: list[int]) -> int:
    """Take what an operation takes off the stack; the depth of what it puts there."""
    taken: list[int] = []
    before = list(code.stack_before)
    if pickletools.markobject in before:
        while stack and (depth := stack.pop()) != MARK:
            taken.append(depth)
        before = before[: before.index(pickletools.markobject)]
    others = [stack.pop() for _ in before if stack]
    if code.name in ("APPEND", "SETITEM", "BUILD"):  # put values into the container below them
        taken, others = others[:-1], others[-1:]
    if code.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
        return max(max(others, default=0), 1 + max(taken, default=0))
    return 1 + max(taken + others, default=-1)
