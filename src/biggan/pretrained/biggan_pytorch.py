"""Import of checkpoints of ajbrock/BigGAN-PyTorch: generator, averaged generator, discriminator; BigGAN and BigGAN-deep.

The files hold no config that could be read without running code, so it is inferred from names and shapes of the tensors. The
epsilons do not show in shapes: they are arguments, with the values of its launch scripts as defaults. Neither do other
nonlinearities than ReLU or other norms than batch normalization (--G_nl, --D_nl, --norm_style): such a checkpoint is
imported as if it had the usual ones.

Condition vectors are (class, z) in both implementations, except for the deep generators of its pull request 72, for weights
converted from TensorFlow Hub: these are (z, class), and have 128 output channels instead of 3.
"""

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from biggan.checkpoints.tensors import Tensors
from biggan.configs.overrides import replace_fields
from biggan.models.biggan import LAYOUTS, BigGANConfig
from biggan.models.biggan_deep import DEEP_LAYOUTS, BigGANDeepConfig
from biggan.models.registry import FAMILIES, ModelConfig
from biggan.models.resnet_config import BASE_RESOLUTION
from biggan.pretrained.translate import ImportedModel, divide_exactly, require_tensor, translate
from biggan.runtime.errors import CheckpointError, ConfigError
from biggan.runtime.tensor_files import read_tensors
from biggan.sampling.latents import LatentConfig

# Names without counterpart here: singular values for its log, counters of its batch normalization.
EXCEPTIONS = (r".*\.sv\d+", r"sv\d+", r".*num_batches_tracked", r".*accumulation_counter")

# (pattern, replacement), applied one after the other to every name.
RENAMES = (
    (r"bn(\d)\.bn\.", r"bn\1."),
    (r"output_layer\.0\.bn\.", "output_layer.0."),
    (r"(stored|running)_mean$", "normalize.standing_mean"),
    (r"(stored|running)_var$", "normalize.standing_variance"),
    (r"\bu0$", "reparametrization.u"),
    (r"\bbn(\d)\b", r"norm_\1"),
    (r"\bconv(\d)\b", r"conv_\1"),
    (r"^shared\b", "embedding"),
    (r"^output_layer\.0\b", "output_norm"),
    (r"^output_layer\.2\b", "output_conv"),
    (r"^input_conv\b", "stem"),
)


BLOCK = r"blocks\.(\d{1,4})\.(\d{1,4})\."


def read_biggan_pytorch(
    generator: Path,
    *,
    average: Path | None = None,
    discriminator: Path | None = None,
    entry: str | None = None,
    norm_epsilon: float = 1e-5,
    spectral_norm_epsilon: float = 1e-6,
) -> ImportedModel:
    """The model in these files: generator, averaged generator `average` and discriminator. With an averaged generator, that
    is the one to sample from. `entry`: which entry of the generator's file to take, if it holds several networks (None: the
    averaged generator). Raises CheckpointError where a file does not fit, as `translate`."""
    raw = read_tensors(generator, network="generator", entry=entry)
    config = infer_generator_config(raw, generator.name)
    config = replace(config, norm_epsilon=norm_epsilon, spectral_norm_epsilon=spectral_norm_epsilon)
    weights = None if discriminator is None else read_tensors(discriminator, network="discriminator")
    if weights is not None:
        config = infer_discriminator_config(config, weights, discriminator.name)
    check_config(config, generator.name)
    weights_by_name = {"generator": convert_network(raw, config, "G", generator.name)}
    if average is not None:
        weights_by_name |= {
            "training_generator": weights_by_name["generator"],
            "generator": convert_network(read_tensors(average, network="generator"), config, "G", average.name),
        }
    if weights is not None:
        weights_by_name["discriminator"] = convert_network(weights, config, "D", discriminator.name)
    return ImportedModel(config, LatentConfig(), weights_by_name, (), f"BigGAN-PyTorch, {(average or generator).name}")


def block_indices(source: Tensors) -> list[tuple[int, int]]:
    """The two indices (i, j) of every layer "blocks.i.j", in order."""
    matches = {re.match(BLOCK, name) for name in source} - {None}
    return sorted({(int(match[1]), int(match[2])) for match in matches})


def attention_resolutions(source: Tensors, config: ModelConfig, network_kind: str, file: str) -> tuple[int, ...]:
    """The resolutions of the attention layers, each the output resolution of the block before it. Raises CheckpointError
    where one comes before the first block or after more blocks than there are."""
    stages = config.generator_stages() if network_kind == "G" else config.discriminator_stages()
    sizes = [stage.resolution for stage in stages for _ in stage.blocks]
    blocks, attended = 0, []
    for index in block_indices(source):
        if "blocks.{}.{}.theta.weight".format(*index) not in source:
            blocks += 1
        elif not 0 < blocks <= len(sizes):
            raise CheckpointError(f"{file}: its blocks are not those of a network of {config.resolution} px")
        else:
            attended.append(sizes[blocks - 1])
    return tuple(attended)


def infer_generator_config(source: Tensors, file: str) -> ModelConfig:
    """The config that fits the names and shapes of a generator's tensors. Raises CheckpointError where none does."""
    linear, first_gain = (require_tensor(source, name, 2, file) for name in ("linear.weight", "blocks.0.0.bn1.gain.weight"))
    deep = "blocks.0.0.conv4.weight" in source
    layouts = DEEP_LAYOUTS if deep else LAYOUTS
    blocks = sum("blocks.{}.{}.conv1.weight".format(*index) in source for index in block_indices(source))
    stages = divide_exactly(blocks, 2, "the list of blocks", file) if deep else blocks
    resolution = BASE_RESOLUTION * 2**stages
    if resolution not in layouts:
        raise CheckpointError(f"{file}: {blocks} blocks are no network of {', '.join(map(str, layouts))} px")
    common = {
        "resolution": resolution,
        "width": divide_exactly(len(linear), BASE_RESOLUTION**2 * layouts[resolution].input, "linear.weight", file),
    }
    output_channels = len(require_tensor(source, "output_layer.2.weight", 4, file))
    first = linear.shape[1]
    if "shared.weight" not in source:
        classes = len(first_gain)
        config: ModelConfig = BigGANConfig(
            **common, num_classes=classes, latent_dim=first, latent_injection="input", class_embedding="per-class"
        )
    else:
        classes, embedding_dim = require_tensor(source, "shared.weight", 2, file).shape
        common |= {"num_classes": classes, "embedding_dim": embedding_dim}
        if deep:
            config = BigGANDeepConfig(**common, latent_dim=first - embedding_dim)
        elif first_gain.shape[1] == embedding_dim:
            config = BigGANConfig(**common, latent_dim=first, latent_injection="input")
        else:
            config = BigGANConfig(**common, latent_dim=first * (stages + 1), latent_injection="chunks")
    config = replace_fields(config, {"generator.output_channels": output_channels})
    return replace_fields(config, {"generator.attention": attention_resolutions(source, config, "G", file)})


def infer_discriminator_config(config: ModelConfig, source: Tensors, file: str) -> ModelConfig:
    """The config completed by the width and the attention of a discriminator. Raises CheckpointError where it does not
    fit."""
    if isinstance(config, BigGANDeepConfig):
        stem = DEEP_LAYOUTS[config.resolution].stem
        width = divide_exactly(len(require_tensor(source, "input_conv.weight", 4, file)), stem, "input_conv.weight", file)
    else:
        first, name = LAYOUTS[config.resolution].discriminator[0], "blocks.0.0.conv1.weight"
        width = divide_exactly(len(require_tensor(source, name, 4, file)), first, name, file)
    config = replace_fields(config, {"discriminator.width": width})
    return replace_fields(config, {"discriminator.attention": attention_resolutions(source, config, "D", file)})


def check_config(config: ModelConfig, file: str) -> None:
    """Raises CheckpointError where a config is not valid here."""
    try:
        config.check()
    except ConfigError as error:
        raise CheckpointError(f"{file} is no network that biggan has: {error}") from error


def convert_network(source: Tensors, config: ModelConfig, network_kind: str, file: str) -> Tensors:
    """The state of the generator ("G") or the discriminator ("D") under our names. Raises CheckpointError as `translate`."""
    family = FAMILIES[config.family]
    with torch.device("meta"):
        network = family.generator(config) if network_kind == "G" else family.discriminator(config)
    paths = map_blocks(source, network)
    is_z_first = network_kind == "G" and config.family == "biggan-deep" and config.output_channels != 3

    def rename(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        """Our name for a source tensor, and the tensor in our order."""
        match = re.match(f"{BLOCK}(.*)", name)
        new_name = name if match is None else f"{paths[int(match[1]), int(match[2])]}.{match[3]}"
        if network_kind == "D" and re.match(r"(linear|embed)\.", new_name):
            new_name = "head." + re.sub(r"^embed\b", "embedding", new_name)
        for pattern, replacement in RENAMES:
            new_name = re.sub(pattern, replacement, new_name)
        new_name = re.sub(r"\bconv_sc\b", "added" if config.family == "biggan-deep" else "skip", new_name)
        if is_z_first and re.search(r"(^linear|\b(gain|bias))\.weight$", new_name):
            tensor = swap_z_and_class(tensor, config.z_dim)
        return new_name, tensor

    return translate(source, network, rename, exceptions=EXCEPTIONS, file=file)


def map_blocks(source: Tensors, network: nn.Module) -> dict[tuple[int, int], str]:
    """{(i, j) of "blocks.i.j": our path of the layer}; blocks are numbered from 0, attention layers named by resolution."""
    paths, blocks = {}, 0
    for index in block_indices(source):
        if "blocks.{}.{}.theta.weight".format(*index) in source:
            paths[index] = f"attention.{network.attention_after.get(blocks - 1, 'nowhere')}"
        else:
            paths[index] = f"blocks.{blocks}"
            blocks += 1
    return paths


def swap_z_and_class(weight: Tensor, z_dim: int) -> Tensor:
    """A weight whose columns are (z, class) with the columns (class, z)."""
    return torch.cat([weight[:, z_dim:], weight[:, :z_dim]], dim=1)
