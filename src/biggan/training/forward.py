"""Forward passes of the discriminator in training: generated and real images in one pass, or alone for the generator's step.

Shapes: N batch, F features, R resolution.
"""

import torch
from torch import Tensor

from biggan.nn.heads import DiscriminatorOutput
from biggan.objectives.regularizer import DiscriminatorPass
from biggan.runtime.distributed import mean_over_ranks
from biggan.runtime.precision import to_device, uint8_to_float
from biggan.training.step_inputs import Batch
from biggan.training.train_state import TrainState


def discriminate_fake_and_real(
    state: TrainState, z: Tensor, fake_labels: Tensor, real_batches: list[Batch]
) -> list[DiscriminatorPass]:
    """D on freshly generated images, augmented, and on each batch of real ones, in one concatenated pass with gradients of D
    alone: images as D saw them, their labels, its outputs; generated first."""
    images, labels = zip(*(to_device_batch(state, batch) for batch in real_batches), strict=True)
    labels = (fake_labels, *labels)
    with state.precision.autocast():
        with torch.no_grad():
            fake = state.generator.network(z, fake_labels)  # (N, 3, R, R)
        x = state.augment(torch.cat([fake, *images]))  # (2N or 3N, 3, R, R)
        x = x.contiguous(memory_format=state.precision.memory_format)  # the same
        output = state.discriminator.ddp(x, torch.cat(labels), len(labels))
    outputs = split_output(output, len(labels))
    return [DiscriminatorPass(*item) for item in zip(x.chunk(len(labels)), labels, outputs, strict=True)]


def discriminate(state: TrainState, images: Tensor, labels: Tensor) -> DiscriminatorOutput:
    """D on augmented images (N, 3, R, R) in the generator's step, its features those of the layer that the objective
    names."""
    network, name, images = state.discriminator.network, state.objective.feature_layer, state.augment(images)
    if name is None:
        return network(images, labels)
    outputs: list[Tensor] = []
    with network.get_submodule(name).register_forward_hook(lambda layer, inputs, output: outputs.append(output)):
        output = network(images, labels)
    return output._replace(features=outputs[-1].flatten(1))


def discriminate_real(state: TrainState, batch: Batch, count: int) -> DiscriminatorOutput:
    """D, without gradients, on as many real images as there are generated ones: those of a micro-batch, repeated as
    needed."""
    images, labels = to_device_batch(state, batch)
    if count != len(images):
        repeats = -(-count // len(images))
        images, labels = images.repeat(repeats, 1, 1, 1)[:count], labels.repeat(repeats)[:count]  # (N, 3, R, R)
    with torch.no_grad():
        return discriminate(state, images, labels)


def with_mean_features(output: DiscriminatorOutput) -> DiscriminatorOutput:
    """The output with the mean features (1, F) of the batch of all ranks, float32. All ranks must call it together."""
    return output._replace(features=mean_over_ranks(output.features.float().mean(0, keepdim=True)))


def logit_statistics(
    real: DiscriminatorOutput, fake: DiscriminatorOutput, decision_boundary: float | None
) -> dict[str, Tensor]:
    """D's mean logits and, where a logit tells real from fake, its accuracies: the shares of real images above the boundary
    and of generated ones below."""
    means = {"D/logit_real": real.logits.mean(), "D/logit_fake": fake.logits.mean()}
    if decision_boundary is None:
        return means
    real_N, fake_N = real.logits > decision_boundary, fake.logits < decision_boundary
    return means | {"D/acc_real": real_N.mean(dtype=torch.float32), "D/acc_fake": fake_N.mean(dtype=torch.float32)}


def split_output(output: DiscriminatorOutput, groups: int) -> list[DiscriminatorOutput]:
    """The output for a concatenated batch as outputs for its equal groups."""
    fields = (field.chunk(groups) if field is not None else [None] * groups for field in output)
    return [DiscriminatorOutput(*group) for group in zip(*fields, strict=True)]


def to_device_batch(state: TrainState, batch: Batch) -> Batch:
    """Real images as the networks see them, float32 (N, 3, R, R) in [-1, 1], and their classes, on the device."""
    images, labels = (to_device(values, state.precision.device) for values in batch)
    return uint8_to_float(images, state.precision.memory_format), labels
