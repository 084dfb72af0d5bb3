"""Checkpoints of BigGAN-PyTorch (ajbrock/BigGAN-PyTorch): generator, averaged generator and discriminator, BigGAN and deep.

The files hold no config that could be read safely, so it is read off names and shapes. What shapes do not tell, the
epsilons, are arguments; the defaults are those of its launch scripts. Nor do they tell another nonlinearity than ReLU or
another norm than batch normalization (--G_nl, --D_nl, --norm_style): such a run is not recognized as what it is.

In a condition vector the class stands before z, there as here, but for the deep generators of its pull request 72, which are
made for the TensorFlow Hub weights: those put z first, and are told by their 128 output channels instead of 3.
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
from biggan.pretrained.translate import Foreign, divided, needed, translate
from biggan.runtime.errors import CheckpointError, ConfigError
from biggan.runtime.tensor_files import read_tensors
from biggan.sampling.latents import LatentConfig

# Singular values kept for its log, and counters of its batch normalization.
EXCEPTIONS = (r".*\.sv\d+", r"sv\d+", r".*num_batches_tracked", r".*accumulation_counter")

SUFFIXES = (
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


def read_biggan_pytorch(
    generator: Path,
    *,
    average: Path | None = None,
    discriminator: Path | None = None,
    norm_epsilon: float = 1e-5,
    spectral_norm_epsilon: float = 1e-6,
) -> Foreign:
    """The networks in these files. With an average, that is what is sampled from. Raises CheckpointError as `translate`."""
    raw = read_tensors(generator)
    config = generator_config(raw, generator.name)
    config = replace(config, norm_epsilon=norm_epsilon, spectral_norm_epsilon=spectral_norm_epsilon)
    weights = None if discriminator is None else read_tensors(discriminator)
    if weights is not None:
        config = with_discriminator(config, weights, discriminator.name)
    check(config, generator.name)
    parts = {"generator": translated(raw, config, "G", generator.name)}
    if average is not None:
        parts |= {
            "training_generator": parts["generator"],
            "generator": translated(read_tensors(average), config, "G", average.name),
        }
    if weights is not None:
        parts["discriminator"] = translated(weights, config, "D", discriminator.name)
    return Foreign(config, LatentConfig(), parts, (), f"BigGAN-PyTorch, {(average or generator).name}")


def places(source: Tensors) -> list[tuple[int, int]]:
    """The two numbers of every layer under `blocks`, in order."""
    found = {re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in source} - {None}
    return sorted({(int(match[1]), int(match[2])) for match in found})


def attention_resolutions(source: Tensors, config: ModelConfig, side: str) -> tuple[int, ...]:
    """Where its attention layers stand: the size after the block before them."""
    stages = config.generator_stages() if side == "G" else config.discriminator_stages()
    sizes = [stage.resolution for stage in stages for _ in stage.blocks]
    blocks, attended = 0, []
    for place in places(source):
        if "blocks.{}.{}.theta.weight".format(*place) in source:
            attended.append(sizes[blocks - 1])
        else:
            blocks += 1
    return tuple(attended)


def generator_config(source: Tensors, what: str) -> ModelConfig:
    """The config that fits the shapes of a generator."""
    linear, first_gain = (needed(source, name, 2, what) for name in ("linear.weight", "blocks.0.0.bn1.gain.weight"))
    deep = "blocks.0.0.conv4.weight" in source
    layouts = DEEP_LAYOUTS if deep else LAYOUTS
    blocks = sum("blocks.{}.{}.conv1.weight".format(*place) in source for place in places(source))
    stages = divided(blocks, 2, "the list of blocks", what) if deep else blocks
    resolution = BASE_RESOLUTION * 2**stages
    if resolution not in layouts:
        raise CheckpointError(f"{what}: {blocks} blocks are no network of {', '.join(map(str, layouts))} px")
    common = {
        "resolution": resolution,
        "width": divided(len(linear), BASE_RESOLUTION**2 * layouts[resolution].input, "linear.weight", what),
    }
    output_channels = len(needed(source, "output_layer.2.weight", 4, what))
    first = linear.shape[1]
    if "shared.weight" not in source:
        classes = len(first_gain)
        config = BigGANConfig(
            **common, num_classes=classes, latent_dim=first, latent_injection="input", class_embedding="per-class"
        )
    else:
        classes, embedding_dim = needed(source, "shared.weight", 2, what).shape
        common |= {"num_classes": classes, "embedding_dim": embedding_dim}
        if deep:
            config = BigGANDeepConfig(**common, latent_dim=first - embedding_dim)
        elif first_gain.shape[1] == embedding_dim:
            config = BigGANConfig(**common, latent_dim=first, latent_injection="input")
        else:
            config = BigGANConfig(**common, latent_dim=first * (stages + 1), latent_injection="chunks")
    config = replace_fields(config, {"generator.output_channels": output_channels})
    return replace_fields(config, {"generator.attention": attention_resolutions(source, config, "G")})


def with_discriminator(config: ModelConfig, source: Tensors, what: str) -> ModelConfig:
    """The config with what the shapes of the discriminator tell."""
    if isinstance(config, BigGANDeepConfig):
        stem = DEEP_LAYOUTS[config.resolution].stem
        width = divided(len(needed(source, "input_conv.weight", 4, what)), stem, "input_conv.weight", what)
    else:
        first = LAYOUTS[config.resolution].discriminator[0]
        width = divided(len(needed(source, "blocks.0.0.conv1.weight", 4, what)), first, "blocks.0.0.conv1.weight", what)
    config = replace_fields(config, {"discriminator.width": width})
    return replace_fields(config, {"discriminator.attention": attention_resolutions(source, config, "D")})


def check(config: ModelConfig, what: str) -> None:
    """Raises CheckpointError where there is no such network of ours."""
    try:
        config.check()
    except ConfigError as error:
        raise CheckpointError(f"{what} is no network that biggan has: {error}") from error


def translated(source: Tensors, config: ModelConfig, side: str, what: str) -> Tensors:
    """The state of one network in our names. Raises CheckpointError as `translate`."""
    family = FAMILIES[config.family]
    with torch.device("meta"):
        network = family.generator(config) if side == "G" else family.discriminator(config)
    where = new_places(source, network)
    z_first = side == "G" and config.family == "biggan-deep" and config.output_channels != 3

    def rename(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        """Our name for one of its tensors, and the tensor in our order."""
        match = re.match(r"blocks\.(\d+)\.(\d+)\.(.*)", name)
        ours = name if match is None else f"{where[int(match[1]), int(match[2])]}.{match[3]}"
        if side == "D" and re.match(r"(linear|embed)\.", ours):
            ours = "head." + re.sub(r"^embed\b", "embedding", ours)
        for pattern, replacement in SUFFIXES:
            ours = re.sub(pattern, replacement, ours)
        ours = re.sub(r"\bconv_sc\b", "added" if config.family == "biggan-deep" else "skip", ours)
        if z_first and re.search(r"(^linear|\b(gain|bias))\.weight$", ours):
            tensor = class_first(tensor, config.z_dim)
        return ours, tensor

    return translate(source, network, rename, exceptions=EXCEPTIONS, what=what)


def new_places(source: Tensors, network: nn.Module) -> dict[tuple[int, int], str]:
    """{their place: ours}: blocks are counted through, attention is named by its resolution."""
    where, blocks = {}, 0
    for place in places(source):
        if "blocks.{}.{}.theta.weight".format(*place) in source:
            where[place] = f"attention.{network.attention_after.get(blocks - 1, 'nowhere')}"
        else:
            where[place] = f"blocks.{blocks}"
            blocks += 1
    return where


def class_first(weight: Tensor, z_dim: int) -> Tensor:
    """Columns (z, class) -> (class, z)."""
    return torch.cat([weight[:, z_dim:], weight[:, :z_dim]], dim=1)
