"""The presets of BigGAN, one function each: a complete RunConfig, with its source, its cost and what it should reach."""

import dataclasses

from biggan.configs.run import RunConfig
from biggan.configs.train import TrainConfig
from biggan.data.dataset import DataConfig
from biggan.models.biggan import BigGANConfig, BigGANDiscriminatorConfig, SAGANConfig, SNGANConfig
from biggan.models.biggan_deep import BigGANDeepConfig
from biggan.models.registry import ModelConfig
from biggan.objectives.regularization_config import GeneratorRegularization, RegularizationConfig

NO_REGULARIZATION = RegularizationConfig(generator=GeneratorRegularization(orthogonal=None))


def biggan_128() -> RunConfig:
    """BigGAN at 128 px, row 8 of the paper's Table 1: FID 8.51, IS 99.31 on ImageNet after 165,000 steps at batch 2048.

    Cost in the paper: 128 TPU v3 cores for a day or two. Choose train.micro_batch to fit the memory at hand.
    """
    return imagenet("biggan-128", BigGANConfig(resolution=128))


def biggan_256() -> RunConfig:
    """BigGAN at 256 px, the paper's Table 2: FID 8.7, IS 142.3 on ImageNet without truncation, batch 2048."""
    return imagenet("biggan-256", BigGANConfig(resolution=256))


def biggan_512() -> RunConfig:
    """BigGAN at 512 px, the paper's Table 2: FID 8.1, IS 144.2 on ImageNet without truncation, batch 2048."""
    return imagenet("biggan-512", BigGANConfig(resolution=512))


def biggan_deep_128() -> RunConfig:
    """BigGAN-deep at 128 px, the paper's Table 2: FID 5.7, IS 124.5 on ImageNet without truncation, batch 2048."""
    return imagenet("biggan-deep-128", BigGANDeepConfig(resolution=128))


def biggan_deep_256() -> RunConfig:
    """BigGAN-deep at 256 px, the paper's Table 2: FID 6.9, IS 171.4 on ImageNet without truncation, batch 2048."""
    return imagenet("biggan-deep-256", BigGANDeepConfig(resolution=256), generator_lr=2.5e-5, discriminator_lr=2.5e-5)


def biggan_deep_512() -> RunConfig:
    """BigGAN-deep at 512 px, the paper's Table 2: FID 7.5, IS 152.8 on ImageNet without truncation, batch 2048."""
    return imagenet("biggan-deep-512", BigGANDeepConfig(resolution=512), generator_lr=2.5e-5, discriminator_lr=2.5e-5)


def imagenet(name: str, model: ModelConfig, **rates: float) -> RunConfig:
    """The paper's settings for ImageNet (appendix C; docs/papers/biggan.md, "Training settings"); start of the average
    from the author's PyTorch code."""
    train = TrainConfig(steps=150_000, ema_start=20_000, sample_every=1000, checkpoint_every=1000)
    return RunConfig(preset=name, model=model, train=dataclasses.replace(train, **rates))


def sagan_128() -> RunConfig:
    """SA-GAN at 128 px, BigGAN's baseline (Table 1, row 1): FID 18.65, IS 52.52 on ImageNet after 1,000,000 steps.

    Zhang et al. 2018; docs/papers/biggan.md, "SA-GAN". The average of the generator, from step 2,000, is BigGAN's addition.
    """
    return RunConfig(
        preset="sagan-128",
        model=SAGANConfig(resolution=128),
        regularization=NO_REGULARIZATION,
        train=TrainConfig(
            steps=1_000_000,
            batch=256,
            discriminator_steps=1,
            generator_lr=1e-4,
            discriminator_lr=4e-4,
            ema_start=2000,
        ),
    )


def sngan_128() -> RunConfig:
    """SN-GAN with projection discriminator at 128 px: IS 29.7, intra-FID 103.1 on ImageNet after 450,000 steps, batch 64.

    Miyato & Koyama 2018; docs/papers/biggan.md, "SN-GAN": five D steps, twice the batch for G, both rates 2e-4, falling
    to 0 from step 400,000; no average. DEVIATION from the released code: no noise is added to the quantized pixels."""
    return RunConfig(
        preset="sngan-128",
        model=SNGANConfig(resolution=128),
        regularization=NO_REGULARIZATION,
        train=TrainConfig(
            steps=450_000,
            batch=64,
            generator_batch_multiplier=2,
            discriminator_steps=5,
            generator_lr=2e-4,
            discriminator_lr=2e-4,
            lr_decay_start=400_000,
            adam_beta2=0.9,
            ema_decay=0.0,
        ),
    )


def digits() -> RunConfig:
    """The demo: scikit-learn's 1,797 handwritten digits at 32 px, ten classes, four minutes on two CPU cores.

    Three D steps keep the digits of a class apart: with one, all samples of a class are nearly the same image. Figures:
    records/2026-11-20_digits.
    """
    return RunConfig(
        preset="digits",
        model=BigGANConfig(resolution=32, width=8, discriminator=BigGANDiscriminatorConfig(width=16)),
        data=DataConfig(source="embedded:digits"),
        train=TrainConfig(
            steps=900,
            minutes=5,
            batch=32,
            discriminator_steps=3,
            generator_lr=1e-3,
            discriminator_lr=1e-3,
            log_every=25,
            sample_every=100,
            checkpoint_every=100,
        ),
    )


def cifar10() -> RunConfig:
    """CIFAR-10 (or any 32 px set) on a CPU: the best images after 20 minutes on two cores.

    Chosen by short runs on two cores: narrow networks and three D steps learn most per minute; the rates go with these
    widths, and twice the rate, or N(0, 0.02) weights, end far worse. Figures: records/2026-11-20_cifar10.
    """
    return RunConfig(
        preset="cifar10",
        model=BigGANConfig(resolution=32, width=12, discriminator=BigGANDiscriminatorConfig(width=12)),
        data=DataConfig(flip=True),
        train=TrainConfig(
            steps=100_000,
            minutes=20,
            batch=32,
            discriminator_steps=3,
            generator_lr=1e-3,
            discriminator_lr=1.3e-3,
            log_every=25,
            sample_every=500,
            checkpoint_every=500,
        ),
    )


def cifar10_gpu() -> RunConfig:
    """CIFAR-10 at the width of the author's PyTorch script (ch 64, batch 50, 4 discriminator steps, both rates 2e-4,
    N(0, 0.02) initialization, average from step 1,000); docs/papers/biggan.md, "BigGAN layer tables"."""
    return RunConfig(
        preset="cifar10-gpu",
        model=BigGANConfig(
            resolution=32, width=64, class_embedding="per-class", latent_injection="input", initialization="normal"
        ),
        data=DataConfig(flip=True),
        regularization=NO_REGULARIZATION,
        train=TrainConfig(
            steps=500_000,
            batch=50,
            discriminator_steps=4,
            generator_lr=2e-4,
            discriminator_lr=2e-4,
            ema_start=1000,
            log_every=100,
            sample_every=2000,
            checkpoint_every=2000,
        ),
    )


def mnist() -> RunConfig:
    """MNIST (28 px, enlarged to 32) on a CPU: the settings of the digits for ten minutes."""
    config = digits()
    train = dataclasses.replace(config.train, steps=100_000, minutes=10, sample_every=250, checkpoint_every=250)
    return dataclasses.replace(config, preset="mnist", data=DataConfig(), train=train)
