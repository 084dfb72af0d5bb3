"""Randomness by address: every random draw has a name, so nothing about it needs saving.

The stream for (seed, purpose, step, index) is the same in any process, after any number of resumptions, for any number of
ranks. Streams live on the CPU whatever the device of the model, so a seed means the same image on every machine.
Not here: what is drawn (see latents, data).
"""

import hashlib

import torch


def addressed_rng(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A fresh CPU generator for one address: `purpose` names what is drawn, `position` which one (step, epoch, image...)."""
    return torch.Generator().manual_seed(number_of(seed, purpose, *position))


def seed_torch(seed: int, purpose: str, *position: int) -> None:
    """Set torch's own generators, from which layers such as dropout draw, to an address: a resumed run then drops what an
    undisturbed one would have dropped. Mutates global state, the only place that does."""
    number = number_of(seed, purpose, *position)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # before that, torch.manual_seed would note the whole call stack each time
        torch.cuda.manual_seed_all(number)


def number_of(seed: int, purpose: str, *position: int) -> int:
    """A 64-bit number for one address."""
    address = "/".join([str(seed), purpose, *map(str, position)])
    digest = hashlib.sha256(address.encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
