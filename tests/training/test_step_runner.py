"""Static buffers against steps as they come, and the buffer that latents travel in."""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import tiny_config
from test_step import pieces, real_batch, tiny_state

from biggan.configs.overrides import replace_fields
from biggan.runtime.errors import ConfigError
from biggan.runtime.precision import Numerics, apply_numerics
from biggan.training.step import train_step
from biggan.training.step_inputs import DISCRIMINATOR_DRAW, GENERATOR_DRAW, LatentSource, pack_draw, unpack_draw
from biggan.training.step_runner import GraphRunner, StaticRunner

OPTIONS = {
    "plain": {},
    "accumulated": {"train.micro_batch": 4, "train.generator_batch_multiplier": 2},
    "penalties": {
        "regularization.discriminator.r1": 1.0,
        "regularization.discriminator.r1_interval": 4,
        "regularization.discriminator.lecam": 0.1,
        "augment.policy": ("color", "translation", "cutout"),
        "train.lr_decay_start": 2,
        "train.steps": 40,
    },
}


def after_steps(config, steps):
    """The state after so many generator steps, and their scalars."""
    generator = torch.Generator().manual_seed(1)
    state = tiny_state(config)
    reals = itertools.cycle(list(pieces(*real_batch(16, generator), state.plan.micro_batch)))
    scalars = [train_step(state, step, reals) for step in range(1, steps + 1)]
    return state, [{name: value.item() for name, value in step.items()} for step in scalars]


@pytest.mark.parametrize("name", OPTIONS)
def test_twenty_steps_in_static_buffers_are_equal_to_the_bit(name):
    config = replace_fields(tiny_config(), OPTIONS[name])
    results = []
    for capture in ("off", "on"):
        changed = dataclasses.replace(config, train=dataclasses.replace(config.train, capture=capture))
        state, scalars = after_steps(changed, 20)
        assert isinstance(state.runner, StaticRunner) == (capture == "on")
        results.append((state.tensors(), scalars))
    (plain, plain_scalars), (static, static_scalars) = results
    assert all(torch.equal(value, static[name]) for name, value in plain.items())
    assert plain_scalars == static_scalars


def test_what_cannot_be_captured_is_said():
    with pytest.raises(ConfigError, match="sigma_clamp decides on the host"):
        tiny_state(
            replace_fields(
                tiny_config(capture="on"),
                {"regularization.generator.sigma_clamp": True, "regularization.generator.sigma_bound": 1.0},
            )
        )
    state = tiny_state(replace_fields(tiny_config(), {"regularization.generator.historical_averaging": 1e-3}))
    assert not isinstance(state.runner, StaticRunner)


@pytest.mark.parametrize("shape", [(1, 8, 5), (3, 4, 7)])
def test_a_draw_survives_its_buffer(shape):
    config = tiny_config(batch=shape[0] * shape[1], micro_batch=shape[1])
    state = tiny_state(config)
    draw = state.latents.draw(7, DISCRIMINATOR_DRAW, 1)
    unpacked = unpack_draw(pack_draw(draw, pin=False), tuple(draw.z.shape))
    assert torch.equal(unpacked.z, draw.z)
    assert torch.equal(unpacked.y, draw.y)
    assert unpacked.step == 7


def test_a_thread_ahead_draws_the_same():
    state = tiny_state(tiny_config(discriminator_steps=2))
    source = state.latents
    ahead = LatentSource(source.plan, source.prior, source.latent_dim, source.num_classes, ahead=False)
    ahead.pool = ThreadPoolExecutor(1)  # without pinned memory, which needs a GPU
    order = [(DISCRIMINATOR_DRAW, 0), (DISCRIMINATOR_DRAW, 1), (GENERATOR_DRAW, 0)]
    for step, (purpose, index) in itertools.product((1, 2, 5, 3), order):  # in order, and after jumps
        assert torch.equal(ahead.get(step, purpose, index), source.get(step, purpose, index))
    assert ahead.pending, "the next ones are drawn already"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
@pytest.mark.parametrize("name", OPTIONS)
def test_captured_steps_are_equal_to_the_bit_where_deterministic(name):
    """On a GPU, with operations that give the same bits each time."""
    config = replace_fields(tiny_config(device="cuda", deterministic=True, compile="off"), OPTIONS[name])
    before = Numerics()
    apply_numerics(config.train.numerics)
    try:
        results = []
        for capture in ("off", "on"):
            state, scalars = after_steps(replace_fields(config, {"train.capture": capture}), 12)
            assert isinstance(state.runner, GraphRunner) == (capture == "on")
            results.append((state.tensors(), scalars))
    finally:
        apply_numerics(before)
    (plain, plain_scalars), (captured, captured_scalars) = results
    assert all(torch.equal(value, captured[name]) for name, value in plain.items())
    assert plain_scalars == captured_scalars
