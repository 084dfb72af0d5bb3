"""Feature extractors: networks from images to features and class logits (Inception, DINOv2, or a module from a file).

`inception`: the InceptionV3 network of 2015 that published scores use, ported from TensorFlow by torch-fidelity, with
TensorFlow's resizing; its logits have no bias, as in the original code (docs/papers/improved_gan.md, "Inception Score").
`dinov2`: ViT-L/14 (Oquab et al. 2023) with the preprocessing of Stein et al. 2023.
`module:FILE`: a torch.export program or TorchScript module from uint8 (N, 3, R, R) to features (N, F), alone or as a pair
with logits (N, K) or None, of any floating-point type.

Loading a `module:FILE` runs code from the file: torch.export may unpickle objects and evaluate expressions, and a
TorchScript module is a program that can write files. It is therefore loaded only if the user declares it trusted, or has
done so before for a file with the same sha256. Of the other two only tensors are read, which runs no code.

Shapes: N images, R resolution, F features, K classes.
"""

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biggan.runtime.atomic_io import default_cache, file_sha256, write_file
from biggan.runtime.bounded_io import read_file
from biggan.runtime.distributed import on_rank_zero
from biggan.runtime.download import fetch
from biggan.runtime.errors import CheckpointError, ConfigError, NonFiniteScore
from biggan.runtime.json_text import read_json
from biggan.runtime.precision import describe_numerics, without_tf32
from biggan.runtime.tensor_files import check_weights, read_tensors
from biggan.runtime.text import printable, shorten

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

DINOV2_REPO = "facebook/dinov2-large"

MAX_FEATURES = 8192
"""Features of an image: their covariance, in float64, then takes half a gigabyte."""

LARGEST_PROGRAM = 1 << 34  # bytes of a module:FILE

TRUSTED_FILE = "trusted_extractors.json"  # in the cache folder; lists the files whose code may be run


LONGEST_REASON = 200  # characters of a library's message that are passed on

logger = logging.getLogger(__name__)


class Extracted(NamedTuple):
    """Features (N, F) float32 and logits (N, K) float32 or None, on one device."""

    features: Tensor
    logits: Tensor | None

    def cpu(self) -> "Extracted":
        """The same on the CPU."""
        return Extracted(self.features.cpu(), None if self.logits is None else self.logits.cpu())


class Extractor:
    """A network in evaluation mode as a function from uint8 images (N, 3, R, R) to features and logits."""

    def __init__(
        self, name: str, sha256: str, resizing: str, network: Callable[[Tensor], Any], device: torch.device, bf16: bool
    ) -> None:
        """`name`, `sha256` of the weights and `resizing`, how images of other sizes are resized, identify the extractor in
        recipes. `bf16`: run under autocast."""
        self.name, self.sha256, self.resizing = name, sha256, resizing
        self.network, self.device, self.bf16 = network, device, bf16
        self.widths: dict[torch.Size, tuple[int, int | None]] = {}  # shape of an image: numbers of features and of logits

    @property
    def is_inception(self) -> bool:
        """Whether this is the published Inception network, whose scores are named FID, KID and Inception Score."""
        return self.name == "inception" and self.sha256 == INCEPTION_SHA256

    @property
    def arithmetic(self) -> str:
        """Numerical precision of the network, for recipes."""
        return "bf16" if self.bf16 else "float32"

    @property
    def numerics(self) -> dict[str, Any]:
        """What decides how its numbers are rounded, for recipes and keys of caches; it never uses TF32."""
        return describe_numerics(self.device, self.arithmetic) | {"tf32": False}

    def __call__(self, images: Tensor) -> Extracted:
        """Features and logits, on the CPU. Raises as `extract`."""
        return self.extract(images).cpu()

    def extract(self, images: Tensor, *, first: int = 0) -> Extracted:
        """Features and logits, on the extractor's device. `first` is the number of the first image in its set, for messages.
        Raises ConfigError as `outputs`, NonFiniteScore where a value is not finite."""
        extracted = self.outputs(images)
        for name, values in extracted._asdict().items():
            if values is not None and not values.isfinite().all():
                image = first + int((~values.isfinite()).any(1).nonzero()[0])
                raise NonFiniteScore(f"extractor {self.name} gives {name} that are not finite for image {image}")
        return extracted

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Extracted:
        """Features and logits, finite or not, on the extractor's device. Raises ConfigError if the network fails, does not
        return features (N, F) alone or with logits (N, K), or returns other numbers of features or logits than before."""
        try:
            images = images.to(self.device, memory_format=torch.channels_last)
            with without_tf32(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                output = self.network(images)
            extracted = self.read_output(output, len(images))
        except ConfigError:
            raise
        except Exception as error:  # a program may raise anything
            raise ConfigError(
                f"extractor {self.name} fails on images {tuple(images.shape)} of uint8: {short_reason(error)}"
            ) from error
        widths = (extracted.features.shape[1], None if extracted.logits is None else extracted.logits.shape[1])
        if widths[0] > MAX_FEATURES:
            raise ConfigError(f"extractor {self.name} gives {widths[0]:,} features, more than {MAX_FEATURES:,}")
        known = self.widths.setdefault(images.shape[1:], widths)
        if widths != known:
            names = [f"{features} features and {logits or 'no'} logits" for features, logits in (known, widths)]
            raise ConfigError(f"extractor {self.name} gives {names[0]} for some images, {names[1]} for others")
        return extracted

    def read_output(self, output: Any, count: int) -> Extracted:
        """What the network returned for `count` images, in float32 on the extractor's device. Raises ConfigError as
        `outputs`."""
        parts = tuple(output) if isinstance(output, (tuple, list)) else (output,)
        if not 1 <= len(parts) <= 2 or not isinstance(parts[0], Tensor):
            kind = f"{len(parts)} values" if isinstance(output, (tuple, list)) and parts else f"a {type(output).__name__}"
            raise ConfigError(
                f"extractor {self.name} gives {kind}, not features (N, F), alone or as a pair with logits (N, K)"
            )
        tensors: list[Tensor | None] = []
        for part, name, shape in zip((*parts, None)[:2], ("features", "logits"), ("(N, F)", "(N, K)"), strict=True):
            if part is None:
                tensors.append(None)
                continue
            if not isinstance(part, Tensor):
                raise ConfigError(f"extractor {self.name} gives a {type(part).__name__} as {name}, not a tensor {shape}")
            if part.layout != torch.strided or part.is_nested or part.is_meta or not part.is_floating_point():
                kind = "nested" if part.is_nested else "meta" if part.is_meta else None
                kind = kind or str(part.dtype if part.layout == torch.strided else part.layout)
                raise ConfigError(
                    f"extractor {self.name} gives {name} of type {kind.removeprefix('torch.')}, not floating-point numbers"
                )
            if part.dim() != 2 or len(part) != count or not part.shape[1]:
                raise ConfigError(
                    f"extractor {self.name} gives no {name} of shape {shape} but {tuple(part.shape)} for {count} images"
                )
            tensors.append(part.to(self.device, torch.float32))
        return Extracted(*tensors)


def short_reason(error: BaseException) -> str:
    """One printable line of at most 200 characters from an exception; of TorchScript's messages, which quote the program,
    the last line, which has the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = printable(lines[-1] if "TorchScript" in lines[0] else lines[0])
    return shorten(reason, LONGEST_REASON)


def open_extractor(
    spec: str,
    *,
    weights: Path | None = None,
    cache: Path,
    device: torch.device,
    bf16: bool = False,
    trusted: bool = False,
) -> Extractor:
    """Open the extractor "inception", "dinov2" or "module:FILE".

    `weights`: a file (for dinov2 a folder or hub name) instead of the weights that are downloaded into `cache`. `trusted`:
    the user trusts the code in FILE, which is stored, so that the same file need not be declared trusted again. Raises
    ConfigError on an unknown name, a missing library or an untrusted FILE, CheckpointError on weights that cannot be
    downloaded or read.
    """
    if spec == "inception":
        return open_inception(weights, cache, device, bf16)
    if spec == "dinov2":
        return open_dinov2(weights, device, bf16)
    kind, _, file = spec.partition(":")
    if kind != "module" or not file:
        raise ConfigError(f"extractor {spec!r}: use inception, dinov2 or module:FILE")
    return open_module(Path(file).expanduser(), device, bf16, trusted)


def open_extractor_on_all_ranks(spec: str, **options: Any) -> Extractor:
    """`open_extractor` on every rank, with the same options; rank 0 downloads the weights for all. All ranks must call it
    together."""
    on_rank_zero(lambda: open_extractor(spec, **options) and None)  # a plain value: an extractor cannot be sent
    return open_extractor(spec, **options)


def open_inception(weights: Path | None, cache: Path, device: torch.device, bf16: bool) -> Extractor:
    """InceptionV3 of torch-fidelity; its weights are downloaded once. Raises ConfigError or CheckpointError."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise ConfigError("the inception extractor needs torch-fidelity: pip install 'biggan-torch[metrics]'") from error
    file = weights or cache / INCEPTION_URL.rsplit("/", 1)[1]
    if weights is None and file.exists() and file_sha256(file) != INCEPTION_SHA256:
        logger.warning("%s is damaged, its sha256 is not that of the published weights: it is fetched again", file)
        file.unlink()
    if weights is None and not file.exists():
        try:
            fetch(INCEPTION_URL, file, sha256=INCEPTION_SHA256)
        except OSError as error:
            raise CheckpointError(
                f"the weights of inception cannot be downloaded ({error}): fetch {INCEPTION_URL} "
                f"(sha256 {INCEPTION_SHA256}) by hand and name it by --extractor-weights FILE, or save it as {file}"
            ) from error
    tensors = read_tensors(file)
    check_weights(tensors, file)
    safe = io.BytesIO()  # torch-fidelity unpickles its weights file, so it gets a copy that contains tensors only
    torch.save(tensors, safe)
    safe.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], safe)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not hold the weights of inception: {short_reason(error)}") from error
    network = network.to(device, memory_format=torch.channels_last)
    resizing = "TensorFlow 1's bilinear to 299, by torch-fidelity"
    return Extractor("inception", file_sha256(file), resizing, network, device, bf16)


def open_dinov2(weights: Path | None, device: torch.device, bf16: bool) -> Extractor:
    """DINOv2: the class token after the last layer normalization; no logits. Raises ConfigError or CheckpointError."""
    try:
        from transformers import Dinov2Model
    except ModuleNotFoundError as error:
        raise ConfigError("the dinov2 extractor needs transformers: pip install 'biggan-torch[dinov2]'") from error
    name = DINOV2_REPO if weights is None else str(weights)
    try:
        model = Dinov2Model.from_pretrained(name, use_safetensors=True).eval().requires_grad_(False).to(device)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the weights of dinov2 cannot be loaded from {name} ({short_reason(error)}): fetch config.json and "
            f"model.safetensors of https://huggingface.co/{DINOV2_REPO} into a folder and name it by --extractor-weights"
        ) from error
    check_weights(model.state_dict(), Path(name))
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
    return Extractor("dinov2", digest.hexdigest(), "bicubic to 224", DINOv2Features(model), device, bf16)


class DINOv2Features(nn.Module):
    """uint8 (N, 3, R, R) -> (features (N, F), None), normalized by ImageNet's channel means and standard deviations."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        x = images.float() / 255  # (N, 3, R, R)
        x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)  # (N, 3, 224, 224)
        mean, std = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])
        x = (x - mean[:, None, None]) / std[:, None, None]
        return self.model(pixel_values=x).pooler_output, None  # (N, F)


def open_module(file: Path, device: torch.device, bf16: bool, trusted: bool) -> Extractor:
    """A torch.export program (.pt2) or a TorchScript module, which PyTorch deprecates but many tools still write.

    Runs code from the file, see `require_trust`. Raises CheckpointError if it cannot be read, ConfigError if it is not
    trusted."""
    if not file.is_file():
        raise CheckpointError(f"extractor module:{file}: no such file")
    try:
        data = read_file(file, LARGEST_PROGRAM)  # read once: the bytes that are hashed are the bytes that are loaded
    except OSError as error:
        raise CheckpointError(f"extractor module:{file} cannot be read ({error}): copy it again") from error
    sha256 = hashlib.sha256(data).hexdigest()
    require_trust(file, sha256, trusted)
    try:
        if file.suffix == ".pt2":
            network = torch.export.load(io.BytesIO(data)).module().to(device)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network = torch.jit.freeze(torch.jit.load(io.BytesIO(data), map_location=device).eval())
    except Exception as error:  # torch passes on many kinds of error
        raise CheckpointError(
            f"{file} is neither a torch.export program nor a TorchScript module ({short_reason(error)})"
        ) from error
    if trusted:
        save_trust(file, sha256)
    return Extractor(f"module:{file.name}", sha256, "none", network, device, bf16)


def require_trust(file: Path, sha256: str, trusted: bool) -> None:
    """Raises ConfigError unless the user declares the file trusted now or has done so before for a file of this sha256. No
    other function decides whether the code of an extractor's file may run."""
    if not trusted and sha256 not in load_trusted():
        raise ConfigError(
            f"extractor module:{file} is a program, and loading it runs its code: if you know where it is from, add "
            f"--trust-extractor (once; in Python trusted=True); its sha256 is {sha256}"
        )


def load_trusted() -> dict[str, str]:
    """The list of trusted files: sha256 and path at the time of the declaration. Empty if the list cannot be read."""
    try:
        return read_json(default_cache() / TRUSTED_FILE)
    except (OSError, ValueError):
        return {}


def save_trust(file: Path, sha256: str) -> None:
    """Add a file to the list of trusted files. If the cache cannot be written, the user has to declare it trusted again."""
    trusted_files = load_trusted()
    if sha256 in trusted_files:
        return
    trusted_files[sha256] = str(file.absolute())
    with contextlib.suppress(OSError):
        default_cache().mkdir(parents=True, exist_ok=True)
        write_file(default_cache() / TRUSTED_FILE, (json.dumps(trusted_files, indent=2) + "\n").encode())
