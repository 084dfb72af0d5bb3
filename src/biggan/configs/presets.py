"""The table of presets, by the names that `biggan train` knows."""

from collections.abc import Callable

from biggan.configs.presets_biggan import (
    biggan_128,
    biggan_256,
    biggan_512,
    biggan_deep_128,
    biggan_deep_256,
    biggan_deep_512,
    cifar10,
    cifar10_gpu,
    digits,
    mnist,
    sagan_128,
    sngan_128,
)
from biggan.configs.presets_improved_gan import (
    improved_cifar10,
    improved_cifar10_minibatch,
    improved_imagenet128,
    improved_mnist,
    improved_mnist_minibatch,
    improved_svhn,
)
from biggan.configs.run import RunConfig
from biggan.runtime.errors import ConfigError, suggestion

PRESETS: dict[str, Callable[[], RunConfig]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar10-gpu": cifar10_gpu,
    "mnist": mnist,
    "improved-mnist": improved_mnist,
    "improved-mnist-minibatch": improved_mnist_minibatch,
    "improved-cifar10": improved_cifar10,
    "improved-cifar10-minibatch": improved_cifar10_minibatch,
    "improved-svhn": improved_svhn,
    "improved-imagenet128": improved_imagenet128,
    "biggan-128": biggan_128,
    "biggan-256": biggan_256,
    "biggan-512": biggan_512,
    "biggan-deep-128": biggan_deep_128,
    "biggan-deep-256": biggan_deep_256,
    "biggan-deep-512": biggan_deep_512,
    "sagan-128": sagan_128,
    "sngan-128": sngan_128,
}


def preset(name: str) -> RunConfig:
    """The run config of this name. Raises ConfigError, with a suggestion, if there is none."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}; {suggestion(name, PRESETS)}")
    return PRESETS[name]()
