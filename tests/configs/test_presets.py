"""Every preset is a config that can be checked and written down; the paper's settings are the paper's."""

import pytest

from biggan.configs.json_io import from_json, to_json
from biggan.configs.presets import PRESETS, preset
from biggan.configs.run import RunConfig
from biggan.runtime.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(name, tmp_path):
    config = preset(name)
    config.check()
    assert config.preset == name
    assert from_json(to_json(config), RunConfig, tmp_path) == config
    assert PRESETS[name].__doc__


@pytest.mark.parametrize(("name", "latent"), [("biggan-128", 120), ("biggan-256", 140), ("biggan-512", 160)])
def test_the_papers_settings(name, latent):
    """docs/papers/biggan.md, "Generator" and "Training settings"."""
    config = preset(name)
    train = config.train
    assert (train.batch, train.discriminator_steps, train.generator_lr, train.discriminator_lr) == (2048, 2, 5e-5, 2e-4)
    assert (train.adam_beta1, train.adam_beta2, train.ema_decay) == (0, 0.999, 0.9999)
    assert (config.model.width, config.model.embedding_dim, config.model.z_dim) == (96, 128, latent)
    assert (config.model.norm_epsilon, config.model.spectral_norm_epsilon) == (1e-4, 1e-4)
    assert config.regularization.generator.orthogonal == 1e-4


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_the_papers_settings_of_deep(resolution):
    """docs/papers/biggan.md, "Generator", "BigGAN-deep layer tables", and "Training settings"."""
    config = preset(f"biggan-deep-{resolution}")
    assert (config.train.batch, config.train.discriminator_steps) == (2048, 2)
    rates = (config.train.generator_lr, config.train.discriminator_lr)
    assert rates == ((5e-5, 2e-4) if resolution == 128 else (2.5e-5, 2.5e-5))
    assert (config.model.width, config.model.z_dim, config.model.latent_injection) == (128, 128, "whole")
    assert config.model.output_channels == 128
    assert config.regularization.generator.orthogonal == 1e-4


def test_the_settings_of_sagan():
    """docs/papers/biggan.md, "SA-GAN"."""
    config = preset("sagan-128")
    train, model = config.train, config.model
    assert (train.batch, train.discriminator_steps, train.generator_lr, train.discriminator_lr) == (256, 1, 1e-4, 4e-4)
    assert (train.adam_beta1, train.steps) == (0, 1_000_000)
    assert (model.width, model.z_dim, model.class_embedding, model.initialization) == (64, 128, "per-class", "glorot")
    assert (model.norm_epsilon, model.spectral_norm_epsilon) == (1e-5, 1e-12)
    assert config.regularization.generator.orthogonal is None


def test_the_settings_of_sngan():
    """docs/papers/biggan.md, "SN-GAN"."""
    config = preset("sngan-128")
    train = config.train
    assert (train.batch, train.generator_batch_multiplier, train.discriminator_steps) == (64, 2, 5)
    assert (train.generator_lr, train.discriminator_lr, train.adam_beta1, train.adam_beta2) == (2e-4, 2e-4, 0, 0.9)
    assert (train.steps, train.lr_decay_start, train.ema_decay) == (450_000, 400_000, 0)
    assert (config.model.generator.reparametrization, config.model.discriminator.hidden_width) == ("plain", "inputs")


# docs/papers/improved_gan.md, "Network and training tables" and "ImageNet configuration": rates, epochs, epochs of constant
# rates, labels of each class, matching, G steps, smoothing.
IMPROVED = {
    "improved-mnist": (3e-3, 300, None, 10, "mean-square", 1, 1.0),
    "improved-mnist-minibatch": (3e-4, 500, 300, 400, None, 3, 1.0),
    "improved-cifar10": (3e-4, 1200, 800, 400, "l1", 1, 1.0),
    "improved-cifar10-minibatch": (3e-4, 1200, 800, 400, None, 3, 1.0),
    "improved-svhn": (3e-4, 900, 600, 100, "l1", 1, 1.0),
    "improved-imagenet128": (4e-4, None, None, None, None, 1, 0.75),
}
# Deviation of the noise on images, minibatch kernels, norm, width of D.
MODELS = {
    "improved-mnist": (0.3, None, "batch", None),
    "improved-mnist-minibatch": (0.2, 100, "batch", 96),
    "improved-cifar10": (0.0, None, "batch", 96),
    "improved-cifar10-minibatch": (0.2, 100, "batch", 96),
    "improved-svhn": (0.0, None, "batch", 64),
    "improved-imagenet128": (0.1, 300, "virtual", None),
}
EPOCHS = {"mnist": 60_000, "cifar10": 50_000, "svhn": 73_257}  # images


@pytest.mark.parametrize("name", IMPROVED)
def test_the_settings_of_improved_techniques(name):
    rate, epochs, constant, labels, matching, steps, target = IMPROVED[name]
    config = preset(name)
    train, objective = config.train, config.objective
    assert (train.generator_lr, train.discriminator_lr, train.adam_beta1, train.adam_beta2) == (rate, rate, 0.5, 0.999)
    assert (train.discriminator_steps, train.generator_steps) == (1, steps)
    assert (train.discriminator_ema_decay, train.ema_decay, train.adam_epsilon) == (0.9999, 0, 1e-4)
    assert config.regularization.generator.orthogonal is None
    model = config.model
    assert (model.discriminator.input_noise, model.discriminator.minibatch_kernels, model.generator.norm) == MODELS[name][:3]
    assert getattr(model.discriminator, "width", None) == MODELS[name][3]
    assert (config.data.labels_per_class, objective.feature_matching, objective.real_target) == (labels, matching, target)
    if epochs is None:
        assert (train.batch, objective.generator_target, objective.unsupervised_weight) == (64, 0.375, 1.0)
        assert (
            config.latent.distribution,
            model.discriminator.minibatch_kernel_dim,
            model.generator.reference_batch_size,
        ) == ("uniform", 50, 64)
        return
    epoch = EPOCHS[name.split("-")[1]] // 100
    assert (train.batch, train.steps) == (100, epochs * epoch)
    assert train.lr_decay_start == (None if constant is None else constant * epoch)
    assert config.latent.distribution == "unit-uniform"


def test_a_mistake_in_a_model_is_told_of_the_family_that_was_meant(tmp_path):
    text = to_json(preset("biggan-deep-128"))
    with pytest.raises(ConfigError, match=r"config: model: unknown key 'widht'; did you mean 'width'"):
        from_json(text.replace('"width"', '"widht"'), RunConfig, tmp_path / "config")
    with pytest.raises(ConfigError, match=r"model\.BigGANDeepConfig\.width='many'"):
        from_json(text.replace('"width": 128', '"width": "many"'), RunConfig, tmp_path / "config")
    with pytest.raises(ConfigError, match="family"):
        from_json(text.replace('"biggan-deep",', '"biggan-depp",'), RunConfig, tmp_path / "config")
