"""One step: accumulation, the order of the turns, the average, the penalties, divergence."""

import dataclasses
import itertools

import pytest
import torch
from conftest import model_config, tiny_config

from biggan.configs.overrides import replace_fields
from biggan.configs.run import RunConfig
from biggan.models.biggan import BigGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.runtime.errors import TrainingDiverged
from biggan.runtime.precision import uint8_to_float
from biggan.training.ema import EMA
from biggan.training.setup import build_train_state
from biggan.training.step import discriminator_step, generator_step, train_step
from biggan.training.step_inputs import DISCRIMINATOR_DRAW, GENERATOR_DRAW


def tiny_state(config: RunConfig):
    return build_train_state(dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=10)))


def real_batch(count, generator):
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


def pieces(images, labels, size=8):
    """Real images as the step takes them, one micro-batch after the other."""
    return zip(images.split(size), labels.split(size), strict=True)


def test_accumulation_gives_the_gradient_of_the_whole_batch(generator):
    """For D on fixed vectors: D has no batch statistics, so cutting the batch up changes nothing but rounding.
    G is put in evaluation mode, because its batch statistics are those of a micro-batch."""
    images, labels = real_batch(8, generator)
    grads = []
    for micro_batch in (8, 2):
        state = tiny_state(tiny_config(micro_batch=micro_batch))
        state.generator.network.eval()
        state.discriminator.network.eval()
        state.discriminator.optimizer_step = lambda step: {}  # keep the gradients
        discriminator_step(state, 1, 0, list(pieces(images, labels, micro_batch)))
        grads.append([p.grad for p in state.discriminator.network.parameters()])
    for whole, parts in zip(*grads, strict=True):
        assert torch.allclose(whole, parts, atol=1e-5)


def test_penalties_count_once_whatever_the_accumulation(generator):
    grads = []
    for micro_batch in (8, 2):
        state = tiny_state(tiny_config(micro_batch=micro_batch))
        state.generator.network.eval()
        state.discriminator.network.eval()
        state.generator.optimizer_step = lambda step: {}
        generator_step(state, 1)
        grads.append([p.grad for p in state.generator.network.parameters()])
    for whole, parts in zip(*grads, strict=True):
        assert torch.allclose(whole, parts, atol=1e-5)


def test_each_player_moves_only_in_its_turn(generator):
    state = tiny_state(tiny_config())
    copies = lambda player: [p.detach().clone() for p in player.network.parameters()]  # noqa: E731
    same = lambda player, before: all(map(torch.equal, player.network.parameters(), before))  # noqa: E731
    g, d = copies(state.generator), copies(state.discriminator)
    discriminator_step(state, 1, 0, list(pieces(*real_batch(8, generator))))
    assert same(state.generator, g)
    assert not same(state.discriminator, d)
    d = copies(state.discriminator)
    generator_step(state, 1)
    assert same(state.discriminator, d)
    assert not same(state.generator, g)


def test_every_turn_draws_its_own_latents():
    state = tiny_state(tiny_config())
    places = ((1, DISCRIMINATOR_DRAW, 0), (1, DISCRIMINATOR_DRAW, 1), (1, GENERATOR_DRAW, 0), (2, DISCRIMINATOR_DRAW, 0))
    draws = [state.latents.draw(*place).z for place in places]
    assert all(not torch.equal(draws[i], draws[j]) for i in range(4) for j in range(i))
    assert torch.equal(draws[0], state.latents.draw(*places[0]).z)


def test_the_real_batch_is_spread_over_the_turns(generator):
    state = tiny_state(tiny_config(discriminator_steps=2, micro_batch=4))
    images, labels = real_batch(16, generator)
    seen = []
    state.discriminator.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    train_step(state, 1, pieces(images, labels, 4))
    real_halves = torch.cat([batch[4:] for batch in seen[:4]])
    assert torch.equal(real_halves, uint8_to_float(images, torch.contiguous_format))
    assert [len(batch) for batch in seen] == [8, 8, 8, 8, 4, 4]


def test_average_against_its_recursion():
    network = torch.nn.Linear(1, 1, bias=False)
    average = EMA(network, decay=0.5, start=1)
    expected = None
    for step, value in enumerate([3.0, 5.0, -1.0, 2.0], start=1):
        with torch.no_grad():
            network.weight.fill_(value)
        average.update(network, step)
        age = step - 1
        decay = min(0.5, (1 + age) / (10 + age)) if age > 0 else 0.0
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.average.weight.item() == pytest.approx(expected)


def test_divergence_names_the_step_and_saves_nothing(tmp_path):
    from test_resume import train

    config = tiny_config(steps=50, checkpoint_every=1)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, generator_lr=1e30, discriminator_lr=1e30))
    with pytest.raises(TrainingDiverged) as caught:
        train(config, tmp_path / "run")
    assert caught.value.step >= 1
    for tensors in (tmp_path / "run" / "checkpoints").glob("*/tensors.safetensors"):
        assert tensors.parent.name < f"step-{caught.value.step:08d}"


def test_non_finite_weights_are_never_saved(tmp_path, monkeypatch):
    """The losses of a step may be finite and its update not."""
    from test_resume import train

    from biggan.training import trainer

    def spoil(state, step, *images):
        scalars = train_step(state, step, *images)
        if step == 3:
            with torch.no_grad():
                state.generator.network.linear.weight[0, 0] = float("inf")
        return scalars

    monkeypatch.setattr(trainer, "train_step", spoil)
    with pytest.raises(TrainingDiverged, match=r"step 3: generator/linear\.weight .*step-00000002"):
        train(tiny_config(steps=5, checkpoint_every=1), tmp_path / "run")


def test_bf16_keeps_weights_float32(generator):
    state = tiny_state(tiny_config(precision="bf16"))
    train_step(state, 1, pieces(*real_batch(16, generator)))
    tensors = [*state.generator.network.state_dict().values(), *state.discriminator.network.state_dict().values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


@pytest.mark.parametrize("family", [BigGANConfig, BigGANDeepConfig])
def test_recomputing_changes_no_bit(generator, family):
    images, labels = real_batch(16, generator)
    states, saved = [], []
    for activation_checkpointing in (False, True):
        config = tiny_config(activation_checkpointing=activation_checkpointing, micro_batch=4)
        model = model_config(family, resolution=32, width=8, embedding_dim=8, num_classes=10, discriminator__dropout=0.5)
        state = build_train_state(dataclasses.replace(config, model=model))
        reals = itertools.cycle(pieces(images, labels, 4))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.nbytes) or t, lambda t: t):
            for step in (1, 2):
                train_step(state, step, reals)
        states.append(state.tensors())
        saved.append(sum(sizes))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert saved[1] < 0.6 * saved[0], "and less is kept"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_all_penalties_at_once(generator, precision, activation_checkpointing):
    """In the arithmetic of the run and with recomputed blocks, and what they remember is part of the state."""
    settings = {"r1": 1.0, "r2": 1.0, "lecam": 0.1, "consistency": 1.0, "sigma_penalty": 1.0, "sigma_bound": 1.0}
    changes = {f"regularization.discriminator.{name}": value for name, value in settings.items()}
    changes |= {"model.discriminator.attention": (16,), "model.width": 4}
    state = tiny_state(
        replace_fields(tiny_config(precision=precision, activation_checkpointing=activation_checkpointing), changes)
    )
    values = train_step(state, 1, itertools.repeat(real_batch(8, generator)))
    assert all(torch.isfinite(value) for value in values.values())
    assert {"D/r1", "D/r2", "D/lecam", "D/consistency", "D/sigma_penalty"} <= set(values)
    assert "discriminator_regularizers/3/anchors" in state.tensors()
