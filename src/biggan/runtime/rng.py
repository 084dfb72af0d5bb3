"""Addressed random numbers: each draw is seeded by (seed, purpose, position), so no RNG state is ever saved or carried.

The random numbers of an address are the same in every process, after any number of resumptions and for any number of ranks.
All are drawn on the CPU, whatever the device of the model, so a seed means the same images on every machine.
"""

import hashlib
from collections.abc import Iterable

import torch


def addressed_rng(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A new CPU generator for an address: `purpose` names the draw, `position` counts it (step, epoch, image)."""
    return torch.Generator().manual_seed(address_seed(seed, purpose, *position))


def addressed_rngs(seed: int, purpose: str, positions: Iterable[int], pool: list[torch.Generator]) -> list[torch.Generator]:
    """`addressed_rng` for many positions, faster. The generators are those of `pool`, seeded anew; where they do not
    suffice, more are made and added to it. They are valid until the next call with this pool."""
    prefix = hashlib.sha256(f"{seed}/{purpose}/".encode())
    chosen = []
    for number, position in enumerate(positions):
        if number == len(pool):
            pool.append(torch.Generator())
        address = prefix.copy()
        address.update(str(position).encode())
        chosen.append(pool[number].manual_seed(int.from_bytes(address.digest()[:8], "little", signed=True)))
    return chosen


def seed_torch(seed: int, purpose: str, *position: int) -> None:
    """Seed torch's global generators, which layers such as dropout draw from, so that a resumed run draws what an
    undisturbed run would have drawn. This is the only function that mutates global RNG state."""
    number = address_seed(seed, purpose, *position)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # uninitialized, it would store the call stack on each call
        torch.cuda.manual_seed_all(number)


def address_seed(seed: int, purpose: str, *position: int) -> int:
    """The 64-bit seed of an address: the first 8 bytes of its sha256."""
    address = "/".join([str(seed), purpose, *map(str, position)])
    digest = hashlib.sha256(address.encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
