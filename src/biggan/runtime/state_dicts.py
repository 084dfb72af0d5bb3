"""The weights of one network in what training programs save: wrapped in a dictionary beside other networks, optimizers and
counters, under names with prefixes of wrapper modules."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from biggan.runtime.errors import CheckpointError
from biggan.runtime.text import printable

# Names under which programs keep the network, in the order in which they are looked for: moving averages come first.
GENERATOR_AVERAGES = ("G_ema", "g_ema", "ema_G", "netG_ema", "generator_ema", "ema_generator", "gen_ema", "G_running", "Gs")
GENERATORS = ("G", "g", "netG", "generator", "gen", "model_G", "G_state_dict", "generator_state_dict")
DISCRIMINATORS = ("D", "d", "netD", "discriminator", "disc", "dis", "model_D", "D_state_dict", "discriminator_state_dict")
AVERAGES = ("ema", "model_ema", "ema_model", "params_ema", "state_dict_ema", "ema_state_dict", "average")
PLAIN = ("state_dict", "model", "model_state_dict", "params", "weights", "network", "net", "module")

NAMES: dict[str | None, tuple[str, ...]] = {
    "generator": (*GENERATOR_AVERAGES, *AVERAGES, *GENERATORS, *PLAIN),
    "discriminator": (*DISCRIMINATORS, *PLAIN),
    None: (*AVERAGES, *PLAIN),
}

PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and AveragedModel, of torch.compile

FEWEST_TENSORS = 3  # beside dictionaries of tensors: fewer are counters, not the weights of a network

MAX_DEPTH = 3  # dictionaries in dictionaries, such as {"state_dict": {"G": ...}}

logger = logging.getLogger(__name__)


def choose_state_dict(value: Any, file: Path, *, network: str | None, entry: str | None) -> dict[str, Tensor]:
    """The tensors of one network, by name, in the content of a file; arguments as `tensor_files.read_tensors`. What is taken
    of several entries is logged. Raises CheckpointError, which names the entries, where none can be chosen."""
    path: list[str] = []
    for _ in range(MAX_DEPTH):
        if not isinstance(value, Mapping):
            break
        nested = {key: item for key, item in value.items() if isinstance(key, str) and holds_tensors(item)}
        if entry is not None and entry in value:
            chosen: str | None = entry
        else:
            names = NAMES[network] if entry is None else PLAIN  # an entry may lie in {"state_dict": ...}
            chosen = next((name for name in names if name in nested), None)
            if chosen is None and len(nested) == 1 and not has_tensors(value):
                (chosen,) = nested
        if chosen is None and entry is not None:
            raise CheckpointError(f"{file} has no entry {entry!r}; it has {list_names(value)}")
        if chosen is None and nested and count_tensors(value) < FEWEST_TENSORS:
            raise CheckpointError(
                f"{file} holds {list_names(value)}: name the entry with the weights (biggan import --entry)"
            )
        if chosen is None:
            break
        entry = None if chosen == entry else entry
        path.append(chosen)
        value = value[chosen]
    if path:
        logger.info("%s: the weights are taken from %s", file, " in ".join(repr(name) for name in reversed(path)))
    if isinstance(value, Mapping):
        tensors = {name: item for name, item in value.items() if isinstance(item, Tensor)}
        unnamed = next((name for name in tensors if not isinstance(name, str)), None)
        if unnamed is not None:
            raise CheckpointError(f"{file} holds a tensor under {printable(repr(unnamed))[:60]}, which is no name")
        if tensors:
            return tensors
        raise CheckpointError(
            f"{file} holds no dictionary of tensors that is known as weights, but {list_names(value)}: give the file with "
            "the weights of one network, or name an entry with its tensors (biggan import --entry)"
        )
    raise CheckpointError(f"{file} holds no dictionary of tensors: give the file with the weights of one network")


def count_tensors(value: Mapping[Any, Any]) -> int:
    """The number of tensors that a dictionary holds itself."""
    return sum(isinstance(item, Tensor) for item in value.values())


def has_tensors(value: Any) -> bool:
    """Whether a value is a dictionary that holds tensors by name."""
    return isinstance(value, Mapping) and any(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def holds_tensors(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether a value is a dictionary of tensors by name, or one of such dictionaries."""
    if not depth or not isinstance(value, Mapping):
        return False
    return has_tensors(value) or any(isinstance(key, str) and holds_tensors(item, depth - 1) for key, item in value.items())


def list_names(value: Mapping[Any, Any]) -> str:
    """The first ten keys of a dictionary, for a message."""
    names = [printable(key)[:60] if isinstance(key, str) else type(key).__name__ for key in list(value)[:10]]
    return (", ".join(names) + (", ..." if len(value) > 10 else "")) or "nothing"


def strip_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefixes that wrapper modules add to every name, and without the counter of
    torch.optim.swa_utils.AveragedModel."""
    while True:
        names = [name for name in tensors if name != "n_averaged"]
        prefix = next((prefix for prefix in PREFIXES if names and all(name.startswith(prefix) for name in names)), None)
        if prefix is None:
            return tensors
        tensors = {name.removeprefix(prefix): tensors[name] for name in names}
