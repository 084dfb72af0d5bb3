"""TODO: split from training.state."""

import torch

from biggan.configs.run import RunConfig
from biggan.data.dataset import Source
from biggan.models import registry
from biggan.nn.batch_norm import normalizes_features, sync_batch_norm
from biggan.nn.minibatch_discrimination import sync_minibatch_discrimination
from biggan.nn.virtual_batch_norm import ReferenceBatch
from biggan.nn.weight_norm import data_dependent_init, needs_data_dependent_init
from biggan.runtime.distributed import SINGLE_PROCESS, World, all_gather_rows, sum_within_groups, wrap_ddp
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import choose_precision, to_device
from biggan.runtime.rng import addressed_rng, seed_torch
from biggan.sampling.latents import draw_labels
from biggan.training.activation_checkpointing import checkpoint_activations
from biggan.training.ema import EMA
from biggan.training.guard import GradientGuard
from biggan.training.step import to_device_batch
from biggan.training.train_state import NETWORKS, BatchPlan, NetworkTrainer, Schedule, TrainState, averaged_networks

INIT_IMAGES = 500  # Salimans et al. 2016, published code

INIT_BATCHES = 5  # but no more micro-batches at once than these, for the sake of memory


def build_train_state(config: RunConfig, world: World = SINGLE_PROCESS) -> TrainState:
    """Networks with weights drawn from the seed, their optimisers, and the average, on the device. With several ranks,
    batch statistics and gradients are those of all; all ranks must call it together."""
    train = config.train
    precision = choose_precision(train.device, train.precision, train.memory_format)
    generator, discriminator = registry.build(config.model, addressed_rng(train.seed, "initial weights"))
    if isinstance(generator.reference, ReferenceBatch):
        stream = addressed_rng(train.seed, "reference batch")
        size = len(generator.reference.y)
        z_BZ = config.latent.prior().draw((size, config.model.z_dim), stream, step=0)
        generator.reference.put(z_BZ, draw_labels(size, config.model.num_classes, stream))
    # Groups of one rank need no sums: each normalises its own images.
    apart, plan = world.size == 1 or train.sync_bn_group_size == 1, plan_batch(config, world)
    if apart and plan.micro_batch == world.size and normalizes_features(generator):
        raise ConfigError(f"train.micro_batch={plan.micro_batch}: G's norms need two or more for each rank: leave it out")
    sums = None if apart else sum_within_groups(train.sync_bn_group_size)
    ema, players, guard = None, [], GradientGuard(precision.device)
    for name, network, lr, regularizers in (
        ("generator", generator, train.generator_lr, config.regularization.generator.regularizers()),
        ("discriminator", discriminator, train.discriminator_lr, config.regularization.discriminator.regularizers()),
    ):
        precision.place(network)
        # The average is of the generator, as it is before ranks come in. Weights that are good already are averaged at once.
        start = train.ema_start if config.init_from is None else 0
        ema = ema or EMA(network, decay=train.ema_decay, start=start)
        if sums is not None:
            sync_batch_norm(network, sums)
        if train.sync_minibatch_discrimination and world.size > 1:
            sync_minibatch_discrimination(network, all_gather_rows)
        if train.activation_checkpointing:
            checkpoint_activations(network)
        betas = (float(train.adam_beta1), float(train.adam_beta2))
        optimizer = torch.optim.Adam(network.parameters(), lr=lr, betas=betas, eps=train.adam_epsilon, fused=True)
        schedule = Schedule(lr, train.lr_decay_start, train.steps)
        wrapped = wrap_ddp(network, precision.device)
        players.append(NetworkTrainer(name, network, wrapped, optimizer, regularizers, schedule, guard))
    decay = train.discriminator_ema_decay
    return TrainState(
        generator=players[0],
        discriminator=players[1],
        ema=ema,
        classifier=None if decay is None else EMA(players[1].network, decay=decay, start=0),
        guard=guard,
        objective=config.objective.objective(),
        augment=config.augment.augmentation(),
        precision=precision,
        plan=plan,
        prior=config.latent.prior(),
        latent_dim=config.model.z_dim,
        num_classes=config.model.num_classes,
    )


def plan_batch(config: RunConfig, world: World = SINGLE_PROCESS) -> BatchPlan:
    """The arithmetic of the batch: batch = micro_batch x accumulation. Raises ConfigError where a micro-batch does not
    divide by the ranks."""
    train = config.train
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
    """Before the first step: the layers of the `new` networks that start from data see up to START_IMAGES images, or
    latents, and their averages begin there. Mutates the game; the same on all ranks."""
    networks = {name: getattr(state, name).network for name in new}
    wanted = [name for name, network in networks.items() if needs_data_dependent_init(network)]
    if not wanted:
        return
    seed_torch(state.plan.seed, "start from data", 0)
    x, y_N = to_device_batch(state, next(source.iterate_once(min(INIT_IMAGES, INIT_BATCHES * state.plan.micro_batch))))
    stream = addressed_rng(state.plan.seed, "start from data", 1)
    z_NZ = to_device(state.prior.draw((len(x), state.latent_dim), stream, step=0), state.precision.device)
    for name in wanted:
        with data_dependent_init(networks[name]):
            networks[name](z_NZ if name == "generator" else x, y_N)
    for name, average in averaged_networks(state).items():
        if (averaged := "generator" if name == "ema" else "discriminator") in new:
            average.load_state_dict(networks[averaged].state_dict())
