"""What turns images into features and class logits: Inception, DINOv2, or a module out of a file.

`inception` is the network of 2015 that published scores are made with, as torch-fidelity carries it over from TensorFlow,
with its resizing; logits are without the bias, as released (docs/papers/improved_gan.md, "Inception Score"). `dinov2` is
ViT-L/14 (Oquab et al. 2023) with the preparation of Stein et al. 2023. `module:FILE` is a torch.export program or a
TorchScript module from uint8 (N, 3, R, R) to (features (N, F), logits (N, K) or None).

Loading a `module:FILE` runs what is in the file: torch.export may unpickle objects and evaluate expressions, and a
TorchScript module is a program that can write files. It is therefore loaded only where its user says that it is trusted, or
has said so before of a file with the same sha256. Of the other two only tensors are read, which runs nothing.

Not here: what is done with the features (see scores, manifold).
"""

import contextlib
import hashlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.runtime.atomic_io import default_cache, write_file
from biggan.runtime.download import fetch
from biggan.runtime.errors import CheckpointError, ConfigError, first_line
from biggan.runtime.tensor_files import read_tensors

INCEPTION_AT = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

DINOV2 = "facebook/dinov2-large"

TRUSTED = "trusted_extractors.json"  # in the cache: of files whose code may be run


class Extracted(NamedTuple):
    """Features (N, F) float32 and logits (N, K) float32, or None, on the CPU."""

    features: Tensor
    logits: Tensor | None


class Extractor:
    """A network in evaluation mode, from uint8 images (N, 3, R, R) to Extracted."""

    def __init__(
        self, name: str, sha256: str, resizing: str, network: Callable[[Tensor], Any], device: torch.device, bf16: bool
    ) -> None:
        """`name` and the `sha256` of the weights say what it is; `resizing` what it does to images of other sizes."""
        self.name, self.sha256, self.resizing = name, sha256, resizing
        self.network, self.device, self.bf16 = network, device, bf16

    @property
    def is_inception(self) -> bool:
        """Whether its scores may be called by the names of published ones."""
        return self.name == "inception" and self.sha256 == INCEPTION_SHA256

    @property
    def arithmetic(self) -> str:
        return "bf16" if self.bf16 else "float32"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        """Raises ConfigError where a module does not take these images or gives something else."""
        images = images.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features, logits = self.network(images)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(images):
            raise ConfigError(f"extractor {self.name} gives no features of shape (N, F) for images {tuple(images.shape)}")
        return Extracted(features.float().cpu(), None if logits is None else logits.float().cpu())


def open_extractor(
    spec: str,
    *,
    weights: Path | None = None,
    cache: Path,
    device: torch.device,
    bf16: bool = False,
    trusted: bool = False,
) -> Extractor:
    """The extractor "inception", "dinov2" or "module:FILE"; `weights`: a file (dinov2: a folder or hub name) in the place of
    what would be fetched into the cache; `trusted`: the code in FILE may be run, now and whenever this very file is opened
    again. Raises ConfigError on another name, a missing library or a FILE that is not trusted, CheckpointError on weights
    that cannot be had or read."""
    if spec == "inception":
        return inception(weights, cache, device, bf16)
    if spec == "dinov2":
        return dinov2(weights, device, bf16)
    kind, _, file = spec.partition(":")
    if kind != "module" or not file:
        raise ConfigError(f"extractor {spec!r}: use inception, dinov2 or module:FILE")
    return module(Path(file).expanduser(), device, bf16, trusted)


def inception(weights: Path | None, cache: Path, device: torch.device, bf16: bool) -> Extractor:
    """InceptionV3 of torch-fidelity, its weights fetched once."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise ConfigError("the inception extractor needs torch-fidelity: pip install 'biggan[metrics]'") from error
    file = weights or cache / INCEPTION_AT.rsplit("/", 1)[1]
    if weights is None and not file.exists():
        try:
            fetch(INCEPTION_AT, file, sha256=INCEPTION_SHA256)
        except OSError as error:
            raise CheckpointError(
                f"the weights of inception cannot be fetched ({error}): fetch {INCEPTION_AT} (sha256 {INCEPTION_SHA256}) by "
                f"hand and name it by --extractor-weights FILE, or lay it at {file}"
            ) from error
    safe = io.BytesIO()  # torch-fidelity would unpickle whatever the file holds: it is given what was read without that
    torch.save(read_tensors(file), safe)
    safe.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], safe)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not hold the weights of inception: {first_line(error)}") from error
    network = network.to(device, memory_format=torch.channels_last)
    resizing = "TensorFlow 1's bilinear to 299, by torch-fidelity"
    return Extractor("inception", sha256_of(file), resizing, network, device, bf16)


def dinov2(weights: Path | None, device: torch.device, bf16: bool) -> Extractor:
    """The class token of DINOv2 after its last normalisation; no logits."""
    try:
        from transformers import Dinov2Model
    except ModuleNotFoundError as error:
        raise ConfigError("the dinov2 extractor needs transformers: pip install 'biggan[dinov2]'") from error
    name = DINOV2 if weights is None else str(weights)
    try:
        model = Dinov2Model.from_pretrained(name, use_safetensors=True).eval().requires_grad_(False).to(device)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the weights of dinov2 cannot be had from {name} ({first_line(error)}): fetch config.json and "
            f"model.safetensors of https://huggingface.co/{DINOV2} into a folder and name it by --extractor-weights"
        ) from error
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return Extractor("dinov2", digest.hexdigest(), "bicubic to 224", DINO(model), device, bf16)


class DINO(nn.Module):
    """uint8 (N, 3, R, R) -> (features (N, F), None), with ImageNet's means and deviations."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        x = images.float() / 255  # (N, 3, R, R)
        x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)  # (N, 3, 224, 224)
        mean, deviation = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])
        x = (x - mean[:, None, None]) / deviation[:, None, None]
        return self.model(pixel_values=x).pooler_output, None  # (N, F)


def module(file: Path, device: torch.device, bf16: bool, trusted: bool) -> Extractor:
    """A torch.export program (.pt2) or a TorchScript module; the latter is deprecated by torch, and still what many have.
    Runs what is in the file: see `refuse_untrusted`."""
    if not file.is_file():
        raise CheckpointError(f"extractor module:{file}: no such file")
    try:
        data = file.read_bytes()  # what is trusted is what is loaded, even if the file changes meanwhile
    except OSError as error:
        raise CheckpointError(f"extractor module:{file} cannot be read ({error}): copy it again") from error
    sha256 = hashlib.sha256(data).hexdigest()
    refuse_untrusted(file, sha256, trusted)
    try:
        if file.suffix == ".pt2":
            network = torch.export.load(io.BytesIO(data)).module().to(device)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = torch.jit.freeze(torch.jit.load(io.BytesIO(data), map_location=device).eval())
    except Exception as error:  # torch raises what its readers raise
        reason = first_line(error)
        raise CheckpointError(f"{file} is neither a torch.export program nor a TorchScript module ({reason})") from error
    if trusted:
        remember_trust(file, sha256)
    return Extractor(f"module:{file.name}", sha256, "none", network, device, bf16)


def refuse_untrusted(file: Path, sha256: str, trusted: bool) -> None:
    """Whether the code in an extractor's file may be run is decided here alone. Raises ConfigError where the user neither
    trusts it now nor has trusted a file of this sha256 before."""
    if not trusted and sha256 not in trusted_before():
        raise ConfigError(
            f"extractor module:{file} is a program, and loading it runs its code: if you know where it is from, add "
            f"--trust-extractor (once; in Python trusted=True); its sha256 is {sha256}"
        )


def trusted_before() -> dict[str, str]:
    """The sha256 of each extractor's file that was trusted, and its path then; nothing where the list cannot be read."""
    try:
        known = json.loads((default_cache() / TRUSTED).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember_trust(file: Path, sha256: str) -> None:
    """Add to the list of trusted files; where the cache cannot be written, the user has to say it again."""
    known = trusted_before()
    if sha256 in known:
        return
    with contextlib.suppress(OSError):
        default_cache().mkdir(parents=True, exist_ok=True)
        write_file(default_cache() / TRUSTED, (json.dumps(known | {sha256: str(file.absolute())}, indent=2) + "\n").encode())


def sha256_of(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
