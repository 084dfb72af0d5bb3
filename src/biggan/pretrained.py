"""From a model on disk to a sampler in memory: `biggan.from_pretrained`.

Not here yet: checkpoints of other implementations, hubs, ONNX.
"""

from pathlib import Path

from biggan.checkpoint import load_model_folder
from biggan.errors import CheckpointError
from biggan.models import FAMILIES
from biggan.precision import DeviceName, PrecisionName, choose_precision
from biggan.sampling import Sampler


def from_pretrained(path: str | Path, *, device: DeviceName = "auto", precision: PrecisionName = "auto") -> Sampler:
    """The sampler of a model folder, or of the run folder around it.

    `from_pretrained("runs/digits").sample(16, classes=[3], truncation=0.7, seed=0).save("out")`.
    Raises CheckpointError where there is no model, or it cannot be read.
    """
    card, tensors = load_model_folder(Path(path))
    card.model.check()
    if card.model.num_classes != len(card.class_names):
        raise CheckpointError(
            f"{path}: config.json names {len(card.class_names)} classes, model.num_classes is {card.model.num_classes}"
        )
    generator = FAMILIES[card.model.family].generator(card.model)
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit its config.json: {error}") from error
    chosen = choose_precision(device, precision, "channels-last")
    chosen.place(generator).eval().requires_grad_(False)
    return Sampler(
        generator,
        latent_dim=card.model.z_dim,
        latent=card.latent,
        class_names=card.class_names,
        device=chosen.device,
        autocast=chosen.autocast(),
        has_statistics=True,
    )
