"""Download of published models: from the Hugging Face hub, and the BigGAN-deep files of pytorch-pretrained-BigGAN.

If a download fails, the error names the files to download by hand.
"""

import re
from pathlib import Path

from biggan.runtime.download import fetch
from biggan.runtime.errors import CheckpointError, first_line

HUB_PATTERNS = ("config.json", "*.safetensors", "pytorch_model.bin")

RELEASED_MODELS = ("biggan-deep-128", "biggan-deep-256", "biggan-deep-512")

RELEASED_URL = "https://s3.amazonaws.com/models.huggingface.co/biggan"


def is_hub_name(name: str) -> bool:
    """Whether a text has the form "user/model" and is not a mistyped path, that is, no folder "user" exists here."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).parent.exists()


def download_snapshot(name: str) -> Path:
    """The folder with config and weights of a model "user/model" on the Hugging Face hub, from huggingface_hub's cache if
    they are there.

    Raises CheckpointError where huggingface_hub is not installed or the download fails."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"no folder {name}, and hub names need huggingface_hub: pip install 'biggan-torch[hub]'"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
    except Exception as error:  # huggingface_hub's own errors, and those of its HTTP library
        address = f"https://huggingface.co/{name}/resolve/main"
        raise CheckpointError(
            f"no folder {name}, and the hub does not give it ({first_line(error)}): fetch {address}/config.json and the "
            "weights beside it (*.safetensors or pytorch_model.bin) by hand into a folder, and name that folder"
        ) from error


def download_released(name: str, cache: Path, *, address: str = RELEASED_URL) -> Path:
    """A folder with config.json and pytorch_model.bin of one of `RELEASED_MODELS`, downloaded into `cache` unless it is
    there.

    Raises CheckpointError, which names the files, where the download fails."""
    folder = cache / name
    files = {file: f"{address}/{name}-{file}" for file in ("config.json", "pytorch_model.bin")}
    for file, url in files.items():
        if (folder / file).exists():
            continue
        try:
            fetch(url, folder / file)
        except OSError as error:
            raise CheckpointError(
                f"{name} cannot be fetched ({error}): fetch {' and '.join(files.values())} by hand, name them "
                f"{' and '.join(files)} in one folder, and name that folder"
            ) from error
    return folder
