"""Fetching published models: Hugging Face hub names, and the BigGAN-deep files that pytorch-pretrained-BigGAN points at.

Whatever cannot be fetched ends in an error that names the files to fetch by hand.
"""

import re
from pathlib import Path

from biggan.runtime.download import fetch
from biggan.runtime.errors import CheckpointError, first_line

WANTED = ("config.json", "*.safetensors", "pytorch_model.bin")

RELEASED = ("biggan-deep-128", "biggan-deep-256", "biggan-deep-512")

RELEASED_AT = "https://s3.amazonaws.com/models.huggingface.co/biggan"


def looks_like_a_hub_name(name: str) -> bool:
    """Whether it is of the form "user/model", and not a slip in a path: no folder "user" is here."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).parent.exists()


def snapshot(name: str) -> Path:
    """A folder with the weights and the config of a model on the Hugging Face hub, from its cache if they are there.

    Raises CheckpointError where huggingface_hub is not installed, or the hub does not give them."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(f"no folder {name}, and hub names need huggingface_hub: pip install 'biggan[hub]'") from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:  # its own errors, and those of whatever HTTP library it uses
        address = f"https://huggingface.co/{name}/resolve/main"
        raise CheckpointError(
            f"no folder {name}, and the hub does not give it ({first_line(error)}): fetch {address}/config.json and the "
            "weights beside it (*.safetensors or pytorch_model.bin) by hand into a folder, and name that folder"
        ) from error


def released(name: str, cache: Path, *, address: str = RELEASED_AT) -> Path:
    """A folder with config.json and pytorch_model.bin of one of `RELEASED`, fetched into the cache unless they are there.

    Raises CheckpointError naming the files where they cannot be fetched."""
    folder = cache / name
    files = {kind: f"{address}/{name}-{kind}" for kind in ("config.json", "pytorch_model.bin")}
    for kind, file in files.items():
        if (folder / kind).exists():
            continue
        try:
            fetch(file, folder / kind)
        except OSError as error:
            raise CheckpointError(
                f"{name} cannot be fetched ({error}): fetch {' and '.join(files.values())} by hand, name them "
                f"{' and '.join(files)} in one folder, and name that folder"
            ) from error
    return folder
