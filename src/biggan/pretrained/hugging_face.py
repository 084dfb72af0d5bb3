"""Import of the BigGAN-deep generators of Hugging Face's pytorch-pretrained-BigGAN: config.json and pytorch_model.bin, with
standing statistics for 51 truncations. They were converted from DeepMind's TensorFlow Hub modules; there is no
discriminator.

Differences: condition vectors are (z, class) there and (class, z) here; rows of the first layer are ordered (height, width,
channel) there and (channel, height, width) here. Weights are divided by sigma = u W v' there, with both vectors stored; here
sigma comes from one power iteration that starts from the stored u. So u is replaced by a vector whose iteration gives the
stored v. Shapes: O outputs, M everything else.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from biggan.checkpoints.tensors import Tensors
from biggan.configs.overrides import replace_fields
from biggan.models.biggan_deep import BigGANDeepConfig, DeepGeneratorConfig
from biggan.models.registry import FAMILIES
from biggan.models.resnet_config import BASE_RESOLUTION, ResNetDiscriminatorConfig
from biggan.nn.spectral_norm import power_iteration
from biggan.pretrained.translate import ImportedModel, translate
from biggan.runtime.errors import CheckpointError, ConfigError, first_line
from biggan.runtime.json_text import read_json
from biggan.runtime.tensor_files import check_weights, read_tensors
from biggan.runtime.text import printable, shorten
from biggan.sampling.latents import LatentConfig

EXCEPTIONS = (r".*num_batches_tracked",)

RENAMES = (
    (r"\.snconv1x1_(theta|phi|g)\b", r".\1"),
    (r"\.snconv1x1_o_conv\b", ".o"),
    (r"^embeddings\b", "embedding"),
    (r"^generator\.gen_z\b", "linear"),
    (r"^generator\.conv_to_rgb\b", "output_conv"),
    (r"^generator\.bn\.weight$", "output_norm.gain"),
    (r"^generator\.bn\.bias$", "output_norm.bias"),
    (r"^generator\.bn\b", "output_norm"),
    (r"\.scale\b", ".gain"),
    (r"\.offset\b", ".bias"),
    (r"\.weight_orig$", ".weight"),
)

SPECTRAL_TOLERANCE = 1e-5


def read_hugging_face(folder: Path) -> ImportedModel:
    """The generator in a folder with config.json and pytorch_model.bin (or model.safetensors).

    Raises CheckpointError as `translate`, and where the config is not one of a BigGAN-deep."""
    weights = next((folder / name for name in ("pytorch_model.bin", "model.safetensors") if (folder / name).exists()), None)
    if weights is None:
        raise CheckpointError(f"{folder} holds no pytorch_model.bin beside its config.json: fetch it too")
    source_config = read_source_config(folder / "config.json")
    config = convert_config(source_config, folder / "config.json")
    source = read_tensors(weights)
    check_weights(source, weights)
    try:
        with torch.device("meta"):
            network: Any = FAMILIES[config.family].generator(config)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond all memory
        raise CheckpointError(
            f"{folder / 'config.json'}: no network has such sizes ({shorten(printable(first_line(error)), 100)})"
        ) from error
    merged, tables = merge_spectral_vectors(source, weights.name), {}
    position = source_config.attention_layer_position
    (attention_resolution,) = network.attention

    def rename(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        """Our name for a source tensor, and the tensor in our order."""
        match = re.match(r"generator\.layers\.(\d{1,4})\.(.*)", name)
        new_name = name
        if match is not None:
            index = int(match[1])
            path = f"attention.{attention_resolution}" if index == position else f"blocks.{index - (index > position)}"
            new_name = f"{path}.{match[2]}"
        for pattern, replacement in RENAMES:
            new_name = re.sub(pattern, replacement, new_name)
        new_name = re.sub(r"\b(bn|conv)_(\d)\b", lambda m: f"{'norm' if m[1] == 'bn' else 'conv'}_{int(m[2]) + 1}", new_name)
        for suffix, buffer in (("running_means", "standing_mean"), ("running_vars", "standing_variance")):
            if new_name.endswith(suffix):
                new_name = new_name.replace(suffix, f"normalize.{buffer}")
                if tensor.dim() != 2 or len(tensor) != source_config.n_stats:
                    raise CheckpointError(
                        f"{weights.name}: {name} is {tuple(tensor.shape)}, not statistics for the {source_config.n_stats} "
                        "truncations of config.json"
                    )
                tables[new_name], tensor = tensor.float(), tensor[-1]
        return new_name, reorder(new_name, tensor, config)

    state = translate(merged, network, rename, exceptions=EXCEPTIONS, file=weights.name)
    count = source_config.n_stats
    truncations = tuple(index / (count - 1) for index in range(count))
    weights_by_name = {"generator": state, "statistics": tables}
    latent = LatentConfig(distribution="scaled-truncated-normal")
    return ImportedModel(config, latent, weights_by_name, truncations, f"pytorch-pretrained-BigGAN, {weights.name}")


@dataclass(frozen=True)
class SourceConfig:
    """config.json of pytorch-pretrained-BigGAN."""

    output_dim: int
    z_dim: int
    class_embed_dim: int
    channel_width: int
    num_classes: int
    layers: list[tuple[bool, int, int]]
    """For each block: whether it doubles the resolution, and its input and output channels in units of the width."""
    attention_layer_position: int
    eps: float
    n_stats: int


def read_source_config(file: Path) -> SourceConfig:
    """Read config.json. Raises CheckpointError where keys are missing, unknown, or of another type."""
    try:
        values = read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): fetch it again") from error
    keys = {item.name for item in dataclasses.fields(SourceConfig)}
    if set(values) != keys:
        mismatch = ", ".join(shorten(printable(key), 100) for key in sorted(set(values) ^ keys)[:10])
        raise CheckpointError(f"{file} is not the config of a pytorch-pretrained-BigGAN: missing or unknown: {mismatch}")
    try:
        return TypeAdapter(SourceConfig).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def convert_config(source_config: SourceConfig, file: Path) -> BigGANDeepConfig:
    """Our config for a source config. Raises CheckpointError where its layers are not those of the paper."""
    config = BigGANDeepConfig(
        resolution=source_config.output_dim,
        num_classes=source_config.num_classes,
        width=source_config.channel_width,
        latent_dim=source_config.z_dim,
        embedding_dim=source_config.class_embed_dim,
        norm_epsilon=source_config.eps,
        spectral_norm_epsilon=source_config.eps,
        generator=DeepGeneratorConfig(attention=()),
        discriminator=ResNetDiscriminatorConfig(attention=()),
    )
    try:
        config.check()
    except ConfigError as error:
        raise CheckpointError(f"{file}: no BigGAN-deep that biggan has: {error}") from error
    stages, width = config.generator_stages(), config.width
    layers = [(up, inputs // width, outputs // width) for stage in stages for inputs, outputs, up in stage.blocks]
    after, resolution = {}, BASE_RESOLUTION
    for index, (up, _, _) in enumerate(layers):
        resolution *= 2 if up else 1
        after[index + 1] = resolution
    position = source_config.attention_layer_position
    if source_config.layers != layers or position not in after:
        raise CheckpointError(f"{file}: its layers are not those of a BigGAN-deep of {config.resolution} px")
    if source_config.n_stats < 2:
        raise CheckpointError(f"{file}: n_stats={source_config.n_stats} must be at least 2")
    return replace_fields(config, {"generator.attention": (after[position],), "discriminator.attention": None})


def merge_spectral_vectors(source: Tensors, file: str) -> Tensors:
    """The tensors with weight_u and weight_v of each layer replaced by `reparametrization.u` (1, O), from which one power
    iteration gives v, and so the same sigma. Raises CheckpointError where no such vector is found."""
    merged = {name: tensor for name, tensor in source.items() if not re.search(r"\.weight_[uv]$", name)}
    for name, u in source.items():
        if not name.endswith(".weight_u"):
            continue
        layer = name.removesuffix(".weight_u")
        if f"{layer}.weight_orig" not in source or f"{layer}.weight_v" not in source:
            raise CheckpointError(f"{file}: {name} without weight_orig and weight_v of the same layer")
        weight, v = source[f"{layer}.weight_orig"].flatten(1).double(), source[f"{layer}.weight_v"].double()
        fits = u.shape == weight.shape[:1] and v.shape == weight.shape[1:]
        vector = find_start_vector(weight, u.double(), v) if fits else None
        if vector is None:
            raise CheckpointError(f"{file}: {name} and weight_v do not belong to weight_orig: the file is damaged")
        merged[f"{layer}.reparametrization.u"] = vector.float()
    return merged


def find_start_vector(weight_OM: Tensor, u_O: Tensor, v_M: Tensor) -> Tensor | None:
    """The vector (1, O) from which one power iteration gives the singular value u W v', or None. It is u itself where the
    iteration had converged, else the least-squares solution of vector W = v."""
    sigma = (u_O @ weight_OM @ v_M).item()
    if not sigma > 0:
        return None
    solve = lambda: torch.linalg.lstsq(weight_OM.T, v_M[:, None], driver="gelsd").solution[:, 0]  # noqa: E731
    for candidate in (lambda: u_O, solve):
        vector_1O = F.normalize(candidate(), dim=0)[None]
        left_1O, right_1M = power_iteration(weight_OM, vector_1O, 1e-12)
        if abs((left_1O @ weight_OM @ right_1M.T).item() / sigma - 1) < SPECTRAL_TOLERANCE:
            return vector_1O
    return None


def reorder(name: str, tensor: Tensor, config: BigGANDeepConfig) -> Tensor:
    """The tensor for one of our names, with rows and columns in our order."""
    if name == "embedding.weight":
        return tensor.T  # stored as a linear map of one-hot vectors there
    if name.startswith("attention") and name.endswith("gamma"):
        return tensor.reshape(())
    if name.startswith("linear."):
        rows = tensor.shape[1] if name.endswith("reparametrization.u") else tensor.shape[0]
        order = torch.arange(rows).view(BASE_RESOLUTION, BASE_RESOLUTION, -1)  # (height, width, channel) there
        order = order.permute(2, 0, 1).flatten()
        tensor = tensor[:, order] if name.endswith("reparametrization.u") else tensor[order]
    if re.search(r"(^linear|\.(gain|bias))\.weight$", name):
        tensor = torch.cat([tensor[:, config.z_dim :], tensor[:, : config.z_dim]], dim=1)  # (z, class) there
    return tensor
