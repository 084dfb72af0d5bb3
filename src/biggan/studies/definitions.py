"""The named studies: which settings each compares, and what the paper found.

Sources: BigGAN table 1, sections 3.1, 4.1 and 4.2, appendices E, H and I; docs/papers/biggan.md, "Results" to "Negative
results and sweeps". Salimans et al. 2016, table 3; docs/papers/improved_gan.md, "Results". They are run in
studies/runner."""

from collections.abc import Callable
from typing import NamedTuple

from biggan.configs.run import RunConfig

Settings = dict[str, object]  # values by the names of `configs.overrides.flatten`


class Row(NamedTuple):
    """One setting: its name, and what it changes of the base."""

    name: str
    settings: Settings


class Finding(NamedTuple):
    """What the paper says of a change from one row to another: the sign of the score's improvement, 0 for none to speak
    of."""

    change: str
    before: str
    after: str
    better: int


class Study(NamedTuple):
    """A named table."""

    title: str
    rows: Callable[[RunConfig], list[Row]]
    findings: tuple[Finding, ...] = ()
    measures_survival: bool = False
    """Whether each model is amenable to truncation is measured too."""
    preset: str = "cifar10"
    """What the settings change, unless another preset is named."""
    needs_start: bool = False
    """Its runs start from a checkpoint: --init-from RUN@STEP."""


SAGAN: Settings = {
    "model.class_embedding": "per-class",
    "model.latent_injection": "input",
    "regularization.generator.orthogonal": None,
}
"""What makes a BigGAN config the SA-GAN baseline of the paper's tables."""


def table1(base: RunConfig) -> list[Row]:
    """The nine rows of table 1, from the base's batch (as 256) and width (as 64) on; each adds to the one before, the last
    goes back to the first width."""
    batch, width = base.train.batch, base.model.width
    rows = [(f"batch x{n}", SAGAN | {"train.batch": n * batch}) for n in (1, 2, 4, 8)]
    wide = {"model.width": round(1.5 * width), "model.discriminator.width": round(1.5 * base.model.discriminator_width)}
    rows.append(("width x1.5", rows[-1][1] | wide))
    rows.append(("shared", rows[-1][1] | {"model.class_embedding": "shared"}))
    rows.append(("skip-z", rows[-1][1] | {"model.latent_injection": "chunks"}))
    rows.append(("ortho", rows[-1][1] | {"regularization.generator.orthogonal": 1e-4}))
    rows.append(
        ("width x1, all", rows[-1][1] | {"model.width": width, "model.discriminator.width": base.model.discriminator_width})
    )
    return [Row(*row) for row in rows]


def latents(base: RunConfig) -> list[Row]:
    """Appendix E: other distributions of z, and fewer of them, put into an SA-GAN baseline as they are."""
    names = (
        "normal",
        "uniform",
        "bernoulli",
        "censored-normal",
        "rademacher",
        "categorical",
        "normal-bernoulli-product",
        "half-normal-half-bernoulli",
        "annealed-normal",
        "varied-normal",
    )
    rows = [Row(name, SAGAN | {"latent.distribution": name}) for name in names]
    return rows + [Row(f"normal, {size} numbers", SAGAN | {"model.latent_dim": size}) for size in (8, 32)]


def negative_results(base: RunConfig) -> list[Row]:
    """Appendix H."""
    changes: dict[str, Settings] = {
        "baseline": {},
        "a block more per stage": {"model.extra_blocks": 1},
        "embedding shared with D": {"model.class_embedding": "shared-with-discriminator"},
        "weight norm in G": {"model.generator.reparametrization": "weight-norm", "model.generator.norm": "none"},
        "no norm in G": {"model.generator.norm": "none"},
        "batch norm in D": {"model.discriminator.norm": "batch"},
        "conditional batch norm in D": {"model.discriminator.norm": "conditional-batch"},
        "bilinear upsampling": {"model.generator.upsampling": "bilinear"},
        "MLPs in the norms": {"model.conditioning": "mlp"},
        "gradient clipping": {
            "regularization.generator.max_grad_norm": 1.0,
            "regularization.discriminator.max_grad_norm": 1.0,
        },
    }
    for network in ("generator", "discriminator"):
        changes |= {
            f"{size}x{size} kernels in {network[0].upper()}": {f"model.{network}.kernel_size": size} for size in (5, 7)
        }
        changes[f"dilation in {network[0].upper()}"] = {f"model.{network}.dilation": 2}
    return [Row(name, settings) for name, settings in changes.items()]


def r1(base: RunConfig) -> list[Row]:
    """Section 4.2 and appendix I: gamma of R1, at every step."""
    gammas = (None, 1e-3, 1e-2, 1e-1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
    return [Row(f"gamma {gamma or 0:g}", {"regularization.discriminator.r1": gamma}) for gamma in gammas]


def discriminator_steps(base: RunConfig) -> list[Row]:
    """Section 3: D steps per G step."""
    return [Row(f"{count} D steps", {"train.discriminator_steps": count}) for count in (1, 2, 3, 4, 5, 6)]


def learning_rates(base: RunConfig) -> list[Row]:
    """Appendix I: a product of rates; here a quarter of the base's, as they are, and four times."""
    factors = (0.25, 1.0, 4.0)
    g, d = base.train.generator_lr, base.train.discriminator_lr
    return [
        Row(f"G x{a:g}, D x{b:g}", {"train.generator_lr": a * g, "train.discriminator_lr": b * d})
        for a in factors
        for b in factors
    ]


def truncatable(base: RunConfig) -> list[Row]:
    """Section 3.1: with and without orthogonal regularization; see analysis/truncation."""
    return [Row(name, {"regularization.generator.orthogonal": value}) for name, value in (("without", None), ("with", 1e-4))]


def collapse(base: RunConfig) -> list[Row]:
    """Section 4.2 and appendix G: what is changed at a checkpoint before collapse."""
    train = base.train
    g, d = train.generator_lr, train.discriminator_lr
    keep: Settings = {"train.optimizer_state": "keep"}
    return [
        Row("unchanged", keep),
        Row("moments reset", {"train.optimizer_state": "reset"}),
        Row("G rate x4", keep | {"train.generator_lr": 4 * g}),
        Row("D rate x4", keep | {"train.discriminator_lr": 4 * d}),
        Row("both rates x4", keep | {"train.generator_lr": 4 * g, "train.discriminator_lr": 4 * d}),
        Row("G rate /4", keep | {"train.generator_lr": g / 4}),
        Row("D rate /4", keep | {"train.discriminator_lr": d / 4}),
        Row("D steps x2", keep | {"train.discriminator_steps": 2 * train.discriminator_steps}),
        Row("G frozen", keep | {"train.generator_lr": 0.0}),
        Row("D frozen", keep | {"train.discriminator_lr": 0.0}),
        Row("R1 1", keep | {"regularization.discriminator.r1": 1.0}),
        Row("R1 10", keep | {"regularization.discriminator.r1": 10.0}),
    ]


def improved(base: RunConfig) -> list[Row]:
    """Table 3 of Salimans et al. 2016: everything but feature matching and historical averaging, then without one thing. G's
    loss is the same in all rows. The smoothing, the strength of averaging and the reference batch are ours: the paper gives
    none for CIFAR-10 (docs/papers/improved_gan.md, "Not confirmed")."""
    labels: Settings = {"objective.loss": "semi-supervised", "data.labels_per_class": None}
    none: Settings = {
        "objective.loss": "non-saturating",
        "train.discriminator_ema_decay": None,
        "data.labels_per_class": None,
    }
    smooth: Settings = {"objective.real_target": 0.9, "objective.generator_target": 1.0, "objective.feature_matching": None}
    whole = labels | smooth | {"model.generator.norm": "virtual", "model.discriminator.minibatch_kernels": 100}
    strength = {f"regularization.{network}.historical_averaging": 0.01 for network in ("generator", "discriminator")}
    # Inception Scores there, on CIFAR-10: 8.09, 7.54, 6.86, 6.83, 4.36, 3.87; of real images 11.24.
    return [
        Row("all", whole),
        Row("batch norm", whole | {"model.generator.norm": "batch"}),
        Row("averaging, no labels", whole | none | strength),
        Row("no smoothing", whole | {"objective.real_target": 1.0}),
        Row("no labels", whole | none),
        Row("no minibatch features", whole | {"model.discriminator.minibatch_kernels": None}),
    ]


def against(first: str, words: dict[str, int]) -> tuple[Finding, ...]:
    """Findings that compare rows with one and the same first row."""
    return tuple(Finding(name, first, name, sign) for name, sign in words.items())


STUDIES: dict[str, Study] = {
    "table1": Study(
        "BigGAN table 1: batch, width, shared embedding, skip-z, orthogonal regularization",
        table1,
        (
            Finding("batch x2", "batch x1", "batch x2", 1),
            Finding("batch x4", "batch x2", "batch x4", 1),
            Finding("batch x8", "batch x4", "batch x8", 1),
            Finding("width x1.5", "batch x8", "width x1.5", 1),
            Finding("shared embedding", "width x1.5", "shared", 1),
            Finding("skip-z", "shared", "skip-z", 1),
            Finding("orthogonal regularization", "skip-z", "ortho", 1),
            Finding("width x1.5, with all", "width x1, all", "ortho", 1),
        ),
    ),
    "latents": Study(
        "BigGAN appendix E: distributions of z",
        latents,
        against(
            "normal",
            {"uniform": 0, "bernoulli": 1, "censored-normal": 1, "rademacher": 0, "categorical": 0}
            | {"normal-bernoulli-product": 0, "half-normal-half-bernoulli": 1, "annealed-normal": 1, "varied-normal": 0}
            | {"normal, 8 numbers": -1, "normal, 32 numbers": 0},
        ),
    ),
    "negative-results": Study(
        "BigGAN appendix H: what did not help",
        negative_results,
        against(
            "baseline",
            {"a block more per stage": -1, "embedding shared with D": -1, "weight norm in G": -1, "no norm in G": -1}
            | {"batch norm in D": -1, "conditional batch norm in D": -1, "bilinear upsampling": -1}
            | {"MLPs in the norms": 0, "gradient clipping": 0, "5x5 kernels in G": 0, "7x7 kernels in G": -1}
            | {"5x5 kernels in D": -1, "7x7 kernels in D": -1, "dilation in G": -1, "dilation in D": -1},
        ),
    ),
    "r1": Study(
        "BigGAN section 4.2: gamma of R1",
        r1,
        against("gamma 0", {f"gamma {g:g}": -1 for g in (1e-3, 1e-2, 1e-1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)}),
    ),
    "d-steps": Study("BigGAN section 3: D steps per G step", discriminator_steps),
    "learning-rates": Study("BigGAN appendix I: learning rates", learning_rates),
    "truncatable": Study(
        "BigGAN section 3.1: does orthogonal regularization make models amenable to truncation?",
        truncatable,
        (Finding("orthogonal regularization", "without", "with", 1),),
        measures_survival=True,
    ),
    "improved": Study(
        "Improved techniques, table 3: virtual batch norm, averaging, smoothing, labels, minibatch features",
        improved,
        (
            *against("all", {"batch norm": -1, "no smoothing": -1, "no labels": -1, "no minibatch features": -1}),
            Finding("averaging, where there are no labels", "no labels", "averaging, no labels", 1),
        ),
        preset="improved-cifar10-minibatch",
    ),
    "collapse": Study("BigGAN section 4.2: interventions before collapse", collapse, needs_start=True),
}
