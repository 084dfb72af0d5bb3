"""Run by test_distributed, alone and under torchrun: gradients and batch statistics of one turn each, to a file."""

import itertools
import sys

import torch
from conftest import model_config, tiny_config

from biggan.configs.overrides import replace_fields
from biggan.models.biggan import BigGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.nn.batch_norm import BatchNorm, sync_batch_norm
from biggan.nn.minibatch_discrimination import MinibatchDiscrimination
from biggan.runtime.distributed import all_gather, process_group
from biggan.training.setup import build_train_state
from biggan.training.step import discriminator_step, generator_step

SIZE = {"resolution": 32, "width": 4, "embedding_dim": 8, "num_classes": 10}
PENALTIES = {f"regularization.discriminator.{name}": 1.0 for name in ("r1", "r2", "lecam", "orthogonal")}
CASES = {
    f"{name}, {accumulation} accumulated": (changes, accumulation)
    for name, changes in {
        "biggan": {"model": BigGANConfig(**SIZE)},
        "biggan-deep": {"model": BigGANDeepConfig(**SIZE)},
        "batch norm in D": {"model": model_config(BigGANConfig, **SIZE, discriminator__norm="batch")},
        "one table": {"model": BigGANConfig(**SIZE, class_embedding="shared-with-discriminator")},
        "virtual norm": {
            "model": model_config(BigGANConfig, **SIZE, generator__norm="virtual", generator__reference_batch_size=6)
        },
        "minibatch features": {
            "model": model_config(BigGANConfig, **SIZE, discriminator__minibatch_kernels=5),
            "train.sync_minibatch_discrimination": True,
        },
        "classes": {
            "model": model_config(BigGANConfig, **SIZE, discriminator__minibatch_kernels=5, discriminator__head="classes"),
            "objective.loss": "semi-supervised",
            "train.sync_minibatch_discrimination": True,
        },
        "feature matching": {"model": BigGANConfig(**SIZE), "objective.feature_matching": "l1"},
        "penalties": {"model": model_config(BigGANConfig, **SIZE, discriminator__attention=(16,))} | PENALTIES,
    }.items()
    for accumulation in (1, 4)
}


def real_images(plan):
    """This rank's shares of fixed micro-batches."""
    generator = torch.Generator().manual_seed(3)
    for _ in itertools.count():
        images = torch.randint(256, (plan.micro_batch, 3, 32, 32), dtype=torch.uint8, generator=generator)
        labels = torch.randint(10, (plan.micro_batch,), generator=generator)
        yield plan.world.local_slice(images), plan.world.local_slice(labels)


def gradients(changes, accumulation, world):
    """{what: tensor} of one turn of each player from the same weights, the optimizers standing still."""
    config = replace_fields(tiny_config(batch=16, micro_batch=16 // accumulation), changes)
    state = build_train_state(config, world)
    found, statistics = {}, []
    for player in (state.generator, state.discriminator):
        player.optimizer_step = lambda step: {}
        if world.size == 1:
            sync_batch_norm(player.network, lambda values: values)  # the path that can be listened to
    for layer in state.discriminator.network.modules():
        if isinstance(layer, MinibatchDiscrimination):  # near enough to each other for the features to say something
            torch.nn.init.constant_(layer.log_scale, -5.0)
    for layer in (*state.generator.network.modules(), *state.discriminator.network.modules()):
        if isinstance(layer, BatchNorm):
            layer.batch_statistics = listening(layer.batch_statistics, statistics)
            layer.global_statistics = listening(layer.global_statistics, statistics)
    reals = list(itertools.islice(real_images(state.plan), state.plan.accumulation))
    discriminator_step(state, 1, 0, reals)
    found |= {f"D/{name}": p.grad.clone() for name, p in state.discriminator.network.named_parameters()}
    for player in (state.generator, state.discriminator):
        player.optimizer.zero_grad()
    generator_step(state, 1, 0, [next(real_images(state.plan))])
    found |= {f"G/{name}": p.grad.clone() for name, p in state.generator.network.named_parameters()}
    return found | {f"statistics/{index}": tensor for index, tensor in enumerate(statistics)}


def listening(function, heard):
    def call(*inputs):
        result = function(*inputs)
        heard.extend(value.detach().clone() for value in result[:2])
        return result

    return call


def main():
    # Without kinks, so that rounding never decides a derivative and the comparison can be tight.
    torch.nn.functional.relu = torch.nn.functional.softplus
    with process_group(torch.device("cpu")) as world:
        found = {name: gradients(*case, world) for name, case in CASES.items()}
        for case in found.values():
            for name, tensor in case.items():
                assert all(torch.equal(tensor, other) for other in all_gather(tensor)), f"{name} differs between ranks"
        if world.is_rank_zero:
            torch.save(found, sys.argv[1])


if __name__ == "__main__":
    main()
