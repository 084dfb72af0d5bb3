"""Every loss against its formula in numpy."""

import numpy as np
import pytest
import torch

from biggan.nn.heads import DiscriminatorOutput
from biggan.objectives.objective_config import ObjectiveConfig
from biggan.runtime.errors import ConfigError

REAL, FAKE = np.array([2.0, 0.5, -1.0]), np.array([-3.0, 0.25, 1.5])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FORMULAS = {
    "hinge": (
        np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean(),
        -FAKE.mean(),
    ),
    "non-saturating": (
        -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean(),
        -np.log(sigmoid(FAKE)).mean(),
    ),
    "least-squares": (((REAL - 1) ** 2).mean() / 2 + (FAKE**2).mean() / 2, ((FAKE - 1) ** 2).mean() / 2),
    "wasserstein": (FAKE.mean() - REAL.mean(), -FAKE.mean()),
    "relativistic": (-np.log(sigmoid(REAL - FAKE)).mean(), -np.log(sigmoid(FAKE - REAL)).mean()),
}


def output(scores):
    return DiscriminatorOutput(torch.tensor(scores), torch.zeros(len(scores), 1), None)


@pytest.mark.parametrize("loss", FORMULAS)
def test_against_numpy(loss):
    objective = ObjectiveConfig(loss=loss).build()
    discriminator = sum(objective.discriminator_loss(output(REAL), output(FAKE), torch.zeros(3)).values())
    generator = sum(objective.generator_loss(output(REAL) if objective.needs_real else None, output(FAKE)).values())
    assert np.allclose([discriminator.item(), generator.item()], FORMULAS[loss])


def test_margin():
    objective = ObjectiveConfig(margin=3.0).build()
    loss = sum(objective.discriminator_loss(output(REAL), output(FAKE), torch.zeros(3)).values())
    assert np.isclose(loss.item(), np.maximum(0, 3 - REAL).mean() + np.maximum(0, 3 + FAKE).mean())
    with pytest.raises(ConfigError, match="above 0"):
        ObjectiveConfig(margin=0.0).check()
    with pytest.raises(ConfigError, match="only applies to the hinge loss"):
        ObjectiveConfig(loss="wasserstein", margin=2.0).check()


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic"])
def test_stable_for_huge_scores(loss):
    objective = ObjectiveConfig(loss=loss).build()
    real, fake = output(np.array([-1e4, 1e4])), output(np.array([1e4, -1e4]))
    terms = [
        *objective.discriminator_loss(real, fake, torch.zeros(2)).values(),
        *objective.generator_loss(real, fake).values(),
    ]
    assert all(torch.isfinite(term) for term in terms)


LOGITS_REAL = np.array([[2.0, 0.5, -1.0], [0.0, 3.0, 1.0]])
LOGITS_FAKE = np.array([[-3.0, 0.25, 1.5], [1.0, -1.0, 0.0]])


def of_logits(logits, features=None):
    logits = torch.tensor(logits)
    features = torch.zeros(len(logits), 1) if features is None else torch.tensor(features)
    return DiscriminatorOutput(logits.logsumexp(1), features, logits)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_classes_and_one_more_against_a_softmax_over_all(weight):
    """Salimans et al. 2016, section 5, with the logit of "generated" written out as a 0."""

    def probabilities(logits):
        exp = np.exp(np.concatenate([logits, np.zeros((len(logits), 1))], axis=1))
        return exp / exp.sum(1, keepdims=True)

    objective = ObjectiveConfig(loss="semi-supervised", unsupervised_weight=weight).build()
    real, fake, y = of_logits(LOGITS_REAL), of_logits(LOGITS_FAKE), torch.tensor([0, 2])
    p, q = probabilities(LOGITS_REAL), probabilities(LOGITS_FAKE)
    unsupervised = -np.log(1 - p[:, 3]).mean() - np.log(q[:, 3]).mean()
    assert np.isclose(sum(objective.discriminator_loss(real, fake, y).values()).item(), weight * unsupervised)
    among_real = p[:, :3] / p[:, :3].sum(1, keepdims=True)
    assert np.isclose(objective.supervised_loss(real, y)["loss_class"].item(), -np.log(among_real[[0, 1], [0, 2]]).mean())
    assert np.isclose(objective.generator_loss(None, fake)["loss"].item(), np.log(q[:, 3]).mean())
    towards_real = ObjectiveConfig(loss="semi-supervised", generator_target=1.0).build()
    assert np.isclose(towards_real.generator_loss(None, fake)["loss"].item(), -np.log(1 - q[:, 3]).mean())


def test_semi_supervised_is_stable_for_huge_logits():
    objective = ObjectiveConfig(loss="semi-supervised", real_target=0.9).build()
    huge = of_logits(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]]))
    huge = huge._replace(class_logits=huge.class_logits.requires_grad_(True))
    huge = huge._replace(logits=huge.class_logits.logsumexp(1))
    terms = objective.discriminator_loss(huge, huge, None) | objective.supervised_loss(huge, torch.tensor([1, 0]))
    terms |= {"g": objective.generator_loss(None, huge)["loss"]}
    assert all(torch.isfinite(term) for term in terms.values())
    (gradient,) = torch.autograd.grad(sum(terms.values()), huge.class_logits)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", ["non-saturating", "semi-supervised"])
def test_one_sided_label_smoothing(loss):
    half = 0.5 if loss == "semi-supervised" else 1.0
    objective = ObjectiveConfig(loss=loss, real_target=0.75, generator_target=0.375).build()
    terms = objective.discriminator_loss(output(REAL), output(FAKE), None)
    smooth = -(0.75 * np.log(sigmoid(REAL)) + 0.25 * np.log(1 - sigmoid(REAL))).mean()
    assert np.isclose(terms["loss_real"].item(), half * smooth)
    assert np.isclose(terms["loss_fake"].item(), -half * np.log(1 - sigmoid(FAKE)).mean()), (
        "generated images keep the target 0"
    )
    expected = -(0.375 * np.log(sigmoid(FAKE)) + 0.625 * np.log(1 - sigmoid(FAKE))).mean()
    assert np.isclose(objective.generator_loss(None, output(FAKE))["loss"].item(), expected)


def test_smoothed_least_squares():
    objective = ObjectiveConfig(loss="least-squares", real_target=0.9).build()
    terms = objective.discriminator_loss(output(REAL), output(FAKE), None)
    assert np.isclose(sum(terms.values()).item(), ((REAL - 0.9) ** 2).mean() / 2 + (FAKE**2).mean() / 2)


@pytest.mark.parametrize("loss", ["hinge", "wasserstein", "relativistic"])
def test_smoothing_is_refused_without_targets(loss):
    with pytest.raises(ConfigError, match=f"real_target=0.9: the {loss} loss compares logits with no target"):
        ObjectiveConfig(loss=loss, real_target=0.9).check()


FEATURES = np.array([[1.0, 2.0, 0.0], [3.0, -1.0, 1.0]]), np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 2.0]])


@pytest.mark.parametrize(
    ("norm", "of"),
    [("squared-l2", lambda d: (d**2).sum()), ("mean-square", lambda d: (d**2).mean()), ("l1", lambda d: np.abs(d).mean())],
)
def test_feature_matching_against_numpy(norm, of):
    objective = ObjectiveConfig(loss="semi-supervised", feature_matching=norm).build()
    real, fake = of_logits(LOGITS_REAL, FEATURES[0]), of_logits(LOGITS_FAKE, FEATURES[1])
    found = objective.generator_loss(real, fake)
    assert list(found) == ["feature_matching"]
    assert np.isclose(found["feature_matching"].item(), of(FEATURES[0].mean(0) - FEATURES[1].mean(0)))
    assert objective.needs_real
    assert objective.supervised
    inner = ObjectiveConfig(loss="semi-supervised").build()
    assert objective.discriminator_loss(real, fake, None) == inner.discriminator_loss(real, fake, None)


@pytest.mark.parametrize("loss", ["non-saturating", "semi-supervised", "least-squares"])
@pytest.mark.parametrize("target", [1.0, 0.75])
def test_the_boundary_is_the_best_score_where_both_are_alike(loss, target):
    """D's loss on one score that real and generated images share is smallest there (section 3.4)."""
    objective = ObjectiveConfig(loss=loss, real_target=target).build()
    outputs = [
        DiscriminatorOutput(logits_N, None, None) for logits_N in torch.linspace(-3, 3, 2001, dtype=torch.float64).split(1)
    ]
    best = min(outputs, key=lambda v: sum(objective.discriminator_loss(v, v, None).values()))
    assert objective.decision_boundary == pytest.approx(best.logits.item(), abs=4e-3)


@pytest.mark.parametrize("loss", ["wasserstein", "relativistic"])
@pytest.mark.parametrize("feature_matching", [None, "l1"])
def test_losses_without_a_boundary_classify_nothing(loss, feature_matching):
    objective = ObjectiveConfig(loss=loss, feature_matching=feature_matching).build()
    with pytest.raises(ConfigError, match=f"^the {loss} loss gives logits without a decision boundary: "):
        objective.classified_as_real(torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"real_target": 1.5, "loss": "non-saturating"}, "above 0 and at most 1"),
        ({"real_target": 0.0, "loss": "non-saturating"}, "above 0"),
        ({"feature_layer": "blocks.0"}, "set objective.feature_matching too"),
        ({"unsupervised_weight": 1.0}, "only applies to the semi-supervised loss"),
        ({"unsupervised_weight": -1.0, "loss": "semi-supervised"}, "at least 0"),
        ({"loss": "semi-supervised", "feature_matching": "l1", "generator_target": 0.5}, "of no use"),
    ],
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(ConfigError, match=words):
        ObjectiveConfig(**settings).check()
