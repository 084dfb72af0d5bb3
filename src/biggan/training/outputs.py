"""What a run leaves for others: a sampler over the averaged generator, and the model directory."""

from pathlib import Path

from biggan.checkpoints.model_dir import ModelCard
from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import read_checkpoint, split_by_prefix
from biggan.configs.run import RunConfig
from biggan.runtime.distributed import on_rank_zero
from biggan.sampling.sampler import Sampler
from biggan.training.ema import EMA
from biggan.training.train_state import TrainState


def build_sampler(state: TrainState, config: RunConfig) -> Sampler:
    """A sampler over the averaged generator, in the precision of the run."""
    return Sampler(
        state.ema.average,
        latent_dim=config.model.z_dim,
        latent=config.latent,
        class_names=config.dataset.class_names,
        precision=state.precision,
        standing_stats_batches=config.train.standing_stats_batches,
        world=state.plan.world,
    )


def save_model(
    sampler: Sampler, config: RunConfig, run_dir: RunDir, step: int, discriminator_ema: EMA | None = None
) -> None:
    """Renew RUN/model: averaged generator with standing statistics for untruncated sampling, and the averaged discriminator
    where there is one. All ranks must call it together."""
    sampler.set_statistics(None)
    networks = {"generator": sampler.generator.state_dict()}
    if discriminator_ema is not None:
        networks["classifier"] = discriminator_ema.average.state_dict()
    on_rank_zero(lambda: run_dir.save_model(build_model_card(config, step), networks))


def save_healthy_model(state: TrainState, checkpoint: Path, config: RunConfig, run_dir: RunDir) -> None:
    """Make the averaged generator of an earlier checkpoint the model of the run, where no scores say which is the best.
    Mutates the average. All ranks must call it together."""
    saved = read_checkpoint(checkpoint)
    state.ema.average.load_state_dict(split_by_prefix(saved.tensors)["ema"])
    save_model(build_sampler(state, config), config, run_dir, saved.step)


def build_model_card(config: RunConfig, step: int) -> ModelCard:
    """config.json of the model directory after generator step `step`."""
    return ModelCard(
        model=config.model,
        latent=config.latent,
        class_names=config.dataset.class_names,
        step=step,
        trained_on=config.dataset.name,
    )
