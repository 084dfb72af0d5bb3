"""TODO: split from training.state."""

import torch

from biggan.configs.run import RunConfig
from biggan.data.dataset import Source
from biggan.models import registry
from biggan.nn.batch_norm import compares_rows, together_with
from biggan.nn.minibatch_discrimination import compare_across_ranks
from biggan.nn.virtual_batch_norm import Reference
from biggan.nn.weight_norm import starting_from_data, starts_from_data
from biggan.runtime.distributed import ALONE, World, reduced, rows_of_all_ranks, sums_within
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import choose_precision, to_device
from biggan.runtime.rng import addressed_generator, seed_networks
from biggan.sampling.latents import draw_labels
from biggan.training.activation_checkpointing import recomputing
from biggan.training.ema import EMA
from biggan.training.guard import Guard
from biggan.training.step import on_device
from biggan.training.train_state import PLAYERS, Game, Plan, Player, Schedule, averages_of

START_IMAGES = 500  # Salimans et al. 2016, published code

START_BATCHES = 5  # but no more micro-batches at once than these, for the sake of memory


def build_game(config: RunConfig, world: World = ALONE) -> Game:
    """Networks with weights drawn from the seed, their optimisers, and the average, on the device. With several ranks,
    batch statistics and gradients are those of all; all ranks must call it together."""
    train = config.train
    precision = choose_precision(train.device, train.precision, train.memory_format)
    generator, discriminator = registry.build(config.model, addressed_generator(train.seed, "initial weights"))
    if isinstance(generator.reference, Reference):
        stream = addressed_generator(train.seed, "reference batch")
        size = len(generator.reference.y)
        z_BZ = config.latent.prior().draw((size, config.model.z_dim), stream, step=0)
        generator.reference.put(z_BZ, draw_labels(size, config.model.num_classes, stream))
    # Groups of one rank need no sums: each normalises its own images.
    apart, plan = world.size == 1 or train.statistics_ranks == 1, plan_of(config, world)
    if apart and plan.micro_batch == world.size and compares_rows(generator):
        raise ConfigError(f"train.micro_batch={plan.micro_batch}: G's norms need two or more for each rank: leave it out")
    sums = None if apart else sums_within(train.statistics_ranks)
    ema, players, guard = None, [], Guard(precision.device)
    for name, network, lr, regularizers in (
        ("generator", generator, train.generator_lr, config.regularization.generator.regularizers()),
        ("discriminator", discriminator, train.discriminator_lr, config.regularization.discriminator.regularizers()),
    ):
        precision.place(network)
        # The average is of the generator, as it is before ranks come in. Weights that are good already are averaged at once.
        start = train.ema_start if config.init_from is None else 0
        ema = ema or EMA(network, decay=train.ema_decay, start=start)
        if sums is not None:
            together_with(network, sums)
        if train.compare_across_ranks and world.size > 1:
            compare_across_ranks(network, rows_of_all_ranks)
        if train.recompute:
            recomputing(network)
        betas = (float(train.adam_beta1), float(train.adam_beta2))
        optimizer = torch.optim.Adam(network.parameters(), lr=lr, betas=betas, eps=train.adam_epsilon, fused=True)
        schedule = Schedule(lr, train.lr_decay_start, train.steps)
        wrapped = reduced(network, precision.device)
        players.append(Player(name, network, wrapped, optimizer, regularizers, schedule, guard))
    decay = train.discriminator_average
    return Game(
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


def plan_of(config: RunConfig, world: World = ALONE) -> Plan:
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
    if world.size % (train.statistics_ranks or 1):
        raise ConfigError(f"train.statistics_ranks={train.statistics_ranks} does not divide {world.size} ranks")
    return Plan(
        batch=train.batch,
        micro_batch=micro_batch,
        accumulation=train.batch // micro_batch,
        discriminator_steps=train.discriminator_steps,
        generator_steps=train.generator_steps,
        generator_batches=train.generator_batches,
        seed=train.seed,
        world=world,
    )


@torch.no_grad()
def begin_from_data(game: Game, source: Source, new: tuple[str, ...] = PLAYERS) -> None:
    """Before the first step: the layers of the `new` networks that start from data see up to START_IMAGES images, or
    latents, and their averages begin there. Mutates the game; the same on all ranks."""
    networks = {name: getattr(game, name).network for name in new}
    wanted = [name for name, network in networks.items() if starts_from_data(network)]
    if not wanted:
        return
    seed_networks(game.plan.seed, "start from data", 0)
    x, y_N = on_device(game, next(source.once(min(START_IMAGES, START_BATCHES * game.plan.micro_batch))))
    stream = addressed_generator(game.plan.seed, "start from data", 1)
    z_NZ = to_device(game.prior.draw((len(x), game.latent_dim), stream, step=0), game.precision.device)
    for name in wanted:
        with starting_from_data(networks[name]):
            networks[name](z_NZ if name == "generator" else x, y_N)
    for name, average in averages_of(game).items():
        if (averaged := "generator" if name == "ema" else "discriminator") in new:
            average.load_state_dict(networks[averaged].state_dict())
