"""A training state from a config: networks with weights drawn from the seed, optimizers, averages, on the device."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from biggan.configs.run import RunConfig
from biggan.configs.train import TrainConfig
from biggan.data.dataset import Source
from biggan.models.registry import build_networks, check_memory
from biggan.nn.batch_norm import normalizes_features, sync_batch_norm
from biggan.nn.data_dependent_weight_norm import WeightNormLinear, data_dependent_init, needs_data_dependent_init
from biggan.nn.minibatch_discrimination import sync_minibatch_discrimination
from biggan.nn.prepared_weights import PreparedWeights
from biggan.nn.virtual_batch_norm import ReferenceBatch
from biggan.objectives.regularizer import Regularizer
from biggan.runtime.distributed import all_gather_rows, sum_within_groups, wrap_ddp
from biggan.runtime.environment import SINGLE_PROCESS, World, local_world_size
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import Precision, choose_precision, to_device
from biggan.runtime.rng import addressed_rng, seed_torch
from biggan.sampling.latents import draw_labels
from biggan.training.activation_checkpointing import checkpoint_activations
from biggan.training.batch_plan import BatchPlan
from biggan.training.compile_blocks import compile_blocks, should_compile
from biggan.training.ema import EMA
from biggan.training.forward import to_device_batch
from biggan.training.guard import GradientGuard
from biggan.training.rollbacks import NO_ROLLBACKS, Rollbacks
from biggan.training.step_inputs import LatentSource
from biggan.training.step_runner import GraphRunner, StaticRunner, StepRunner
from biggan.training.train_state import NETWORKS, LearningRate, NetworkTrainer, TrainState

INIT_IMAGES = 500  # Salimans et al. 2016, published code
INIT_BATCHES = 5  # but no more micro-batches at once than these, for the sake of memory


def build_train_state(config: RunConfig, world: World = SINGLE_PROCESS, rollbacks: Rollbacks = NO_ROLLBACKS) -> TrainState:
    """The state before the first step of a run, or of one that went back to a checkpoint as often as `rollbacks` says. With
    several ranks gradients are those of all, batch statistics those of a group; all ranks must call it together. Raises
    ConfigError on a batch that does not divide."""
    train, model = config.train, config.model
    precision = choose_precision(train.device, train.precision, train.memory_format)
    copies = 4 if precision.device.type == "cpu" else 1  # weights, gradients, two moments
    check_memory(model, "training", copies)
    generator, discriminator = build_networks(model, addressed_rng(train.seed, "initial weights"))
    prior = config.latent.build()
    if isinstance(generator.reference, ReferenceBatch):
        rng, size = addressed_rng(train.seed, "reference batch"), len(generator.reference.y)
        z_BZ = prior.draw((size, model.z_dim), rng, step=0)
        generator.reference.set(z_BZ, draw_labels(size, model.num_classes, rng))
    plan = plan_batch(train, world)
    if not syncs_batch_norm(train, world) and plan.micro_batch == world.size and normalizes_features(generator):
        raise ConfigError(f"train.micro_batch={plan.micro_batch}: G's norms need two or more for each rank: leave it out")
    for network in (generator, discriminator):
        precision.place(network)
    # The averages are of the networks as they are before ranks come in. Weights that are good already are averaged at once.
    ema = EMA(generator, decay=train.ema_decay, start=train.ema_start if config.init_from is None else 0)
    decay = train.discriminator_ema_decay
    discriminator_ema = None if decay is None else EMA(discriminator, decay=decay, start=0)
    guard, regularization, factor = GradientGuard(precision.device), config.regularization, rollbacks.lr_factor(config)
    g_rate = LearningRate(train.generator_lr * factor, train.lr_decay_start, train.steps)
    d_rate = LearningRate(train.discriminator_lr * factor, train.lr_decay_start, train.steps)
    sides = (regularization.generator, regularization.discriminator)
    of_g, of_d = (side.build(tf32=train.tf32 or precision.bf16) for side in sides)
    of_d += rollbacks.penalties(config)
    if syncs_batch_norm(train, world):
        sums = sum_within_groups(batch_norm_group(train, world))
        share_batch_statistics({generator: of_g, discriminator: of_d}, sums)
    if train.sync_minibatch_discrimination and world.size > 1:
        for network in (generator, discriminator):
            sync_minibatch_discrimination(network, all_gather_rows)
    trainers = [
        build_trainer("generator", generator, train, g_rate, of_g, guard, precision, world),
        build_trainer("discriminator", discriminator, train, d_rate, of_d, guard, precision, world),
    ]
    on_gpu = precision.device.type == "cuda"
    return TrainState(
        generator=trainers[0],
        discriminator=trainers[1],
        ema=ema,
        discriminator_ema=discriminator_ema,
        guard=guard,
        objective=config.objective.build(),
        augment=config.augment.build(),
        precision=precision,
        plan=plan,
        prior=prior,
        latent_dim=model.z_dim,
        num_classes=model.num_classes,
        latents=LatentSource(plan, prior, model.z_dim, model.num_classes, ahead=on_gpu),
        runner=build_runner(train.capture, precision.device, world, trainers),
    )


def build_trainer(
    name: str,
    network: nn.Module,
    train: TrainConfig,
    rate: LearningRate,
    regularizers: tuple[Regularizer, ...],
    guard: GradientGuard,
    precision: Precision,
    world: World,
) -> NetworkTrainer:
    """A network with its optimizer. Mutates the network where activations are to be checkpointed."""
    if train.activation_checkpointing:
        checkpoint_activations(network)
    if should_compile(train.compile, precision.device, network, regularizers, train.activation_checkpointing, world):
        compile_blocks(network)
    betas = (float(train.adam_beta1), float(train.adam_beta2))
    on_gpu = precision.device.type == "cuda"  # there the rate is on the device, so that a step can be captured
    lr = torch.tensor(rate.base, device=precision.device) if on_gpu else rate.base
    options = {"betas": betas, "eps": train.adam_epsilon, "fused": True, "capturable": on_gpu}
    weights = PreparedWeights(network, precision.dtype)  # before the optimizer, because it changes where weights lie
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, **options)
    ddp = wrap_ddp(network, precision.device, bf16_gradients=train.gradient_exchange == "bf16")
    return NetworkTrainer(name, network, ddp, optimizer, regularizers, rate, guard, weights)


def build_runner(
    capture: Literal["auto", "on", "off"], device: torch.device, world: World, trainers: list[NetworkTrainer]
) -> StepRunner:
    """The runner that the config asks for. Raises ConfigError where capture is asked for and cannot be had."""
    if not may_capture(capture, world, trainers):
        return StepRunner(device)
    if device.type == "cuda":
        return GraphRunner(device, partial(note_updates, trainers))
    return StaticRunner(device) if capture == "on" else StepRunner(device)


def check_compile_and_capture(
    train: TrainConfig, device: torch.device, world: World, trainers: list[NetworkTrainer]
) -> None:
    """Raises ConfigError where compiled blocks or captured steps are asked for and cannot be had."""
    for trainer in trainers:
        should_compile(train.compile, device, trainer.network, trainer.regularizers, train.activation_checkpointing, world)
    may_capture(train.capture, world, trainers)


def note_updates(trainers: list[NetworkTrainer]) -> None:
    """Let the layers of all networks know that weights may have changed."""
    for trainer in trainers:
        trainer.note_update()


def may_capture(capture: Literal["auto", "on", "off"], world: World, trainers: list[NetworkTrainer]) -> bool:
    """Whether the steps of these networks can be captured and may be. Raises ConfigError where that is asked for and cannot
    be had."""
    obstacle = obstacle_to_capture(world, trainers)
    if capture == "on" and obstacle is not None:
        raise ConfigError(f"train.capture=on: {obstacle}: use --train.capture auto")
    return capture != "off" and obstacle is None


def obstacle_to_capture(world: World, trainers: list[NetworkTrainer]) -> str | None:
    """Why the steps of these networks cannot be captured; None if they can."""
    if world.size > 1:
        return "steps of several ranks are not captured"
    for trainer in trainers:
        for regularizer in trainer.regularizers:
            if not regularizer.capturable:
                return f"the regularizer {regularizer.name} decides on the host at each step"
        if any(isinstance(layer, WeightNormLinear) for layer in trainer.network.modules()):
            return "this family keeps products of its weights from step to step"
    return None


def syncs_batch_norm(train: TrainConfig, world: World) -> bool:
    """Whether ranks share batch statistics: groups of one rank normalize their own images."""
    return world.size > 1 and train.sync_bn_group_size != 1


def batch_norm_group(train: TrainConfig, world: World) -> int | None:
    """How many neighboring ranks share batch statistics: as the config says, or those of one machine; None: all."""
    if train.sync_bn_group_size is not None:
        return train.sync_bn_group_size
    on_machine = local_world_size()
    return on_machine if 1 < on_machine < world.size and world.size % on_machine == 0 else None


def share_batch_statistics(
    networks: dict[nn.Module, tuple[Regularizer, ...]], sum_over_ranks: Callable[[Tensor], Tensor]
) -> None:
    """Let batch norms use the statistics of several ranks, packed unless a regularizer differentiates twice. `networks`:
    with their regularizers. Mutates the networks."""
    for network, regularizers in networks.items():
        sync_batch_norm(network, sum_over_ranks, packed=not any(one.differentiates_twice for one in regularizers))


def plan_batch(train: TrainConfig, world: World = SINGLE_PROCESS) -> BatchPlan:
    """The arithmetic of the batch: batch = micro_batch x accumulation. Raises ConfigError where a micro-batch does not
    divide by the ranks."""
    micro_batch = train.micro_batch or train.batch
    if micro_batch % world.size:
        name = "micro_batch" if train.micro_batch else "batch"
        near = -(-micro_batch // world.size) * world.size
        raise ConfigError(
            f"train.{name}={micro_batch} is not divisible by {world.size} ranks: use --train.{name.replace('_', '-')} {near}"
        )
    if world.size % (train.sync_bn_group_size or 1):
        raise ConfigError(f"train.sync_bn_group_size={train.sync_bn_group_size} does not divide {world.size} ranks")
    return BatchPlan(
        batch=train.batch,
        micro_batch=micro_batch,
        accumulation=train.batch // micro_batch,
        discriminator_steps=train.discriminator_steps,
        generator_steps=train.generator_steps,
        generator_batch_multiplier=train.generator_batch_multiplier,
        seed=train.seed,
        world=world,
    )


@torch.no_grad()
def run_data_dependent_init(state: TrainState, source: Source, new: tuple[str, ...] = NETWORKS) -> None:
    """Before the first step: the layers of the `new` networks that are initialized from data see up to INIT_IMAGES
    images, or latents, and their averages begin there. Mutates the state; the same on all ranks."""
    networks = {name: getattr(state, name).network for name in new}
    wanted = [name for name, network in networks.items() if needs_data_dependent_init(network)]
    if not wanted:
        return
    seed_torch(state.plan.seed, "start from data", 0)
    images = next(source.iterate_once(min(INIT_IMAGES, INIT_BATCHES * state.plan.micro_batch)))
    x, y_N = to_device_batch(state, images)
    rng = addressed_rng(state.plan.seed, "start from data", 1)
    z_NZ = to_device(state.prior.draw((len(x), state.latent_dim), rng, step=0), state.precision.device)
    for name in wanted:
        with data_dependent_init(networks[name]):
            networks[name](z_NZ if name == "generator" else x, y_N)
    for name, average in state.averages().items():
        if (averaged := "generator" if name == "ema" else "discriminator") in new:
            average.load_state_dict(networks[averaged].state_dict())
