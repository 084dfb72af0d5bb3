"""Every preset is a config that can be checked and written down; the paper's settings are the paper's."""

import pytest

from biggan.config import RunConfig, from_json, to_json
from biggan.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(name, tmp_path):
    config = preset(name)
    config.check()
    assert config.preset == name
    assert from_json(to_json(config), RunConfig, tmp_path) == config
    assert PRESETS[name].__doc__


@pytest.mark.parametrize(("name", "latent"), [("biggan-128", 120), ("biggan-256", 140), ("biggan-512", 160)])
def test_the_papers_settings(name, latent):
    """Spec sections 2 and 5."""
    config = preset(name)
    train = config.train
    assert (train.batch, train.discriminator_steps, train.generator_lr, train.discriminator_lr) == (2048, 2, 5e-5, 2e-4)
    assert (train.adam_beta1, train.adam_beta2, train.ema_decay) == (0, 0.999, 0.9999)
    assert (config.model.width, config.model.embedding_dim, config.model.z_dim) == (96, 128, latent)
    assert (config.model.norm_epsilon, config.model.spectral_epsilon) == (1e-4, 1e-4)
    assert config.regularization.generator_orthogonal == 1e-4
