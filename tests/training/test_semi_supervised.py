"""Semi-supervised runs: what D is shown, resumption to the bit, the classifier that comes out, and what is refused."""

import dataclasses
import json
import re

import pytest
import torch
from conftest import call, model_config, tiny_config, write_pictures

from biggan.checkpoints.run_dir import RunDir
from biggan.checkpoints.tensors import read_checkpoint
from biggan.configs.overrides import replace_fields
from biggan.configs.run import resolve
from biggan.data.dataset import DataConfig, dataset_info, open_data, open_source
from biggan.data.labeled_subset import labeled_subset
from biggan.metrics.classification import ClassifyConfig, count_errors
from biggan.models.biggan import BigGANConfig
from biggan.models.improved_gan_config import MLPConfig
from biggan.objectives.objective_config import ObjectiveConfig
from biggan.pretrained.classifier import open_classifier
from biggan.runtime.errors import CheckpointError, ConfigError, DataError
from biggan.training.resume import resume
from biggan.training.setup import build_train_state, run_data_dependent_init
from biggan.training.step import train_step
from biggan.training.trainer import fit


def semi_supervised(model=None, **changes):
    """A run of seconds on the digits at 8 px: 4 labels a class."""
    model = model or model_config(MLPConfig, resolution=8, generator__hidden=(20,), discriminator__hidden=(40, 30))
    config = tiny_config(batch=20, discriminator_steps=1, discriminator_ema_decay=0.9, adam_epsilon=1e-4, generator_lr=3e-3)
    config = dataclasses.replace(
        config,
        model=model,
        data=DataConfig(source="embedded:digits", labels_per_class=4),
        objective=ObjectiveConfig(loss="semi-supervised", feature_matching="mean-square"),
        classify=ClassifyConfig(test_data="embedded:digits", every=2),
    )
    config = replace_fields(config, {"train.discriminator_lr": 3e-3, "monitor.every": None} | changes)
    config.check()
    return config


def train(config, path):
    source = open_data(config.data, config.model.resolution)
    folder, config = RunDir(path), resolve(config, dataset_info(source))
    folder.claim(config)
    fit(config, source, folder)
    return folder


def tensors_of(folder):
    return read_checkpoint(folder.list_checkpoints()[-1]).tensors


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_four_steps_are_two_and_two(tmp_path, precision):
    changes = {"train.precision": precision, "model.discriminator.minibatch_kernels": 3, "train.generator_steps": 2}
    changes |= {"regularization.generator.historical_averaging": 0.1, "objective.feature_matching": None}
    whole = tensors_of(train(semi_supervised(**changes), tmp_path / "whole"))
    train(semi_supervised(**changes, **{"train.steps": 2}), tmp_path / "parts")
    parts = tensors_of(train(semi_supervised(**changes), tmp_path / "parts"))
    assert whole.keys() == parts.keys()
    assert any(name.startswith("classifier/") for name in whole)
    assert not [name for name in whole if "standing" not in name and not torch.equal(whole[name], parts[name])]


def test_learns_and_leaves_a_classifier(tmp_path, capsys):
    """Better than chance within seconds; the errors of the log are those of the classifier on disk."""
    config = semi_supervised(**{"train.steps": 150, "train.log_every": 50, "classify.every": 75})
    folder = train(config, tmp_path / "run")
    tests = [json.loads(line) for line in (folder.path / "classifier_test.jsonl").read_text().splitlines()]
    assert [line["step"] for line in tests] == [75, 150]
    assert tests[-1]["test_error"] < 40
    classifier = open_classifier(folder.path)
    found = count_errors(classifier.logits, open_source("embedded:digits", 8).iterate_once(20))
    assert (found.wrong, found.images) == (tests[-1]["test_wrong"], 1797)
    log = [json.loads(line) for line in folder.stats_file.read_text().splitlines()]
    assert log[-1]["D/acc_class"] > 0.6

    code, out, _ = call(capsys, "classify", folder.path, "embedded:digits", "--batch", 20, "--out", tmp_path / "all.csv")
    assert code == 0
    assert f"{found.wrong} of 1797 wrong" in out
    rows = (tmp_path / "all.csv").read_text().splitlines()
    assert rows[0] == "image,class,probability"
    assert len(rows) == 1798
    wrong = sum(re.match(r"(\d)/", row)[1] != row.split(",")[1] for row in rows[1:])
    assert wrong == found.wrong


def test_one_picture_and_foreign_classes(tmp_path, capsys):
    folder = train(semi_supervised(), tmp_path / "run")
    write_pictures(tmp_path / "pictures", {"cats": 2})
    code, out, _ = call(capsys, "classify", folder.path, tmp_path / "pictures" / "cats" / "0.png")
    assert code == 0
    assert out.startswith("0.png  ")
    assert "wrong" not in out, "of other classes nothing is right or wrong"
    (tmp_path / "pictures" / "cats" / "broken.png").write_bytes(b"broken")
    code, _, err = call(capsys, "classify", folder.path, tmp_path / "pictures")
    assert (code, "broken.png" in err, "(--skip-broken)" in err, len(err.splitlines())) == (2, True, True, 1)
    code, out, err = call(capsys, "classify", folder.path, tmp_path / "pictures", "--skip-broken", "--batch", 1)
    assert (code, len(out.splitlines()), "1 of 3 images could not be read" in err) == (0, 2, True)


def test_minibatch_features_see_the_batches_of_the_test(tmp_path, capsys):
    """Answers depend on who is compared with whom: the command gives what the log of the run says."""
    folder = train(semi_supervised(**{"model.discriminator.minibatch_kernels": 10, "train.steps": 40}), tmp_path / "run")
    wrong = json.loads((folder.path / "classifier_test.jsonl").read_text().splitlines()[-1])["test_wrong"]
    _, out, _ = call(capsys, "classify", folder.path, "embedded:digits", "--batch", 20)
    assert f"{wrong} of 1797 wrong" in out


def test_a_run_on_some_classes_is_tested_on_those(tmp_path):
    folder = train(semi_supervised(**{"data.classes": ("3", "5"), "train.steps": 2}), tmp_path / "run")
    (line,) = (json.loads(line) for line in (folder.path / "classifier_test.jsonl").read_text().splitlines())
    assert line["test_error"] == pytest.approx(100 * line["test_wrong"] / 365, rel=1e-4)


def test_starting_from_a_model_folder(tmp_path, notes):
    """What the folder has is taken, the classifier too; what it has not starts from data."""
    model = train(semi_supervised(), tmp_path / "run").path / "model"
    source = open_source("embedded:digits", 8)
    config = resolve(semi_supervised(init_from=str(model)), dataset_info(source))
    state, folder = build_train_state(config), RunDir(tmp_path / "again")
    notes.clear()
    progress = resume(state, config, folder)
    assert progress.new_networks == ("discriminator",)
    classifier = state.discriminator_ema.average.state_dict()
    for name, value in open_classifier(model).network.state_dict().items():
        assert torch.equal(classifier[name], value)
    weights = state.generator.network.state_dict()
    run_data_dependent_init(state, source, progress.new_networks)
    assert not torch.equal(state.discriminator.network.state_dict()["blocks.1.1.scale"], torch.ones(40))
    assert all(torch.equal(weights[name], value) for name, value in state.generator.network.state_dict().items())


def test_starting_with_other_classes_and_virtual_norm(tmp_path):
    """The reference batch keeps classes that there are."""
    model = model_config(
        BigGANConfig, resolution=32, width=2, embedding_dim=8, generator__norm="virtual", generator__reference_batch_size=30
    )
    folder = train(replace_fields(tiny_config(steps=1), {"model": model}), tmp_path / "run")
    start = {"model": model, "init_from": str(folder.path), "data.classes": ("3", "5")}
    again = train(replace_fields(tiny_config(steps=1), start), tmp_path / "again")
    assert tensors_of(folder)["generator/reference.y"].max() > 1
    assert tensors_of(again)["generator/reference.y"].max() == 1


def test_one_image_at_a_time_has_no_batch_statistics():
    with pytest.raises(ConfigError, match="two or more"):
        build_train_state(replace_fields(semi_supervised(), {"model.num_classes": 10, "train.micro_batch": 1}))


def test_labeled_images_are_chosen_by_the_seed():
    source = open_source("embedded:digits", 8)
    parts = [labeled_subset(source, 3, seed) for seed in (0, 0, 1)]
    for part in parts:
        assert torch.equal(part.labels.bincount(), torch.full((10,), 3))
        for image, label in zip(part.images, part.labels, strict=True):
            same = (source.images == image).flatten(1).all(1)
            assert label in source.labels[same]
    assert torch.equal(parts[0].images, parts[1].images)
    assert not torch.equal(parts[0].images, parts[2].images)
    with pytest.raises(DataError, match=r"labels_per_class=500: class 8 has 174 images"):
        labeled_subset(source, 500, 0)


def test_only_labeled_images_teach_classes(generator):
    """The supervised term is that of the labeled batch, the unsupervised ones those of the others."""
    config = semi_supervised()
    config = replace_fields(config, {"model.num_classes": 10})
    state = build_train_state(config)
    seen = []
    inner = state.discriminator.network.forward
    state.discriminator.ddp = lambda x, y, parts: seen.append((x, y, parts)) or inner(x, y, parts)
    real = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8, generator=generator), torch.zeros(20, dtype=torch.int64)
    known = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8, generator=generator), torch.arange(20) % 10
    train_step(state, 1, iter([real]), iter([known]))
    (images, labels, parts) = seen[0]
    assert parts == 3
    assert torch.equal(images[20:40], real[0] / 127.5 - 1)
    assert torch.equal(images[40:], known[0] / 127.5 - 1)
    assert torch.equal(labels[40:], known[1])


def test_the_start_from_data_reaches_the_averages():
    config = replace_fields(semi_supervised(), {"model.num_classes": 10})
    state, source = build_train_state(config), open_source("embedded:digits", 8)
    run_data_dependent_init(state, source)
    weights = state.discriminator.network.state_dict()
    assert not torch.equal(weights["blocks.1.1.scale"], torch.ones(40))
    assert all(torch.equal(value, weights[name]) for name, value in state.discriminator_ema.average.state_dict().items())


def test_several_generator_steps_per_round():
    config = replace_fields(semi_supervised(), {"model.num_classes": 10, "train.generator_steps": 3})
    state, steps = build_train_state(config), []
    for player in (state.generator, state.discriminator):
        player.optimizer_step = lambda step, player=player: steps.append(player.name) or {}
    source = open_source("embedded:digits", 8)
    labeled = labeled_subset(source, 4, 0)
    train_step(state, 1, source.stream(20, seed=0), labeled.stream(20, seed=0))
    assert steps == ["discriminator", "generator", "generator", "generator"]


def test_features_of_a_named_layer(generator):
    config = replace_fields(semi_supervised(), {"model.num_classes": 10, "objective.feature_layer": "blocks.1"})
    state, seen = build_train_state(config), []
    inner = state.objective.generator_loss

    class Spy:
        def __getattr__(self, name):
            return getattr(inner.__self__, name)

        def generator_loss(self, real, fake):
            seen.append((real.features.shape, fake.features.shape))
            return inner(real, fake)

    state.objective = Spy()
    source = open_source("embedded:digits", 8)
    train_step(state, 1, source.stream(20, seed=0), labeled_subset(source, 4, 0).stream(20, seed=0))
    assert seen == [((1, 40), (1, 40))], "the means of the batch"


@pytest.mark.parametrize("name", ["head", "blocks", "nope", ""])
def test_a_layer_that_gives_no_features(name):
    config, facts = semi_supervised(**{"objective.feature_layer": name}), dataset_info(open_source("embedded:digits", 8))
    with pytest.raises(ConfigError, match=f"objective.feature_layer={name} is no layer"):
        resolve(config, facts)


TECHNIQUES = {
    "classes, features, minibatch, virtual": {
        "model.discriminator.head": "classes",
        "model.discriminator.minibatch_kernels": 3,
        "model.generator.norm": "virtual",
        "model.generator.reference_batch_size": 4,
        "objective.loss": "semi-supervised",
        "objective.feature_matching": "l1",
        "train.discriminator_ema_decay": 0.9,
        "data.labels_per_class": 2,
    },
    "projection, minibatch, smoothing, averaging": {
        "model.discriminator.minibatch_kernels": 3,
        "objective.loss": "non-saturating",
        "objective.real_target": 0.9,
        "regularization.generator.historical_averaging": 0.1,
        "regularization.discriminator.historical_averaging": 0.1,
    },
}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_with_biggan_too(name, tmp_path):
    config = replace_fields(tiny_config(), {"data.flip": False} | TECHNIQUES[name])
    config.check()
    whole = tensors_of(train(config, tmp_path / "whole"))
    train(replace_fields(config, {"train.steps": 2}), tmp_path / "parts")
    parts = tensors_of(train(config, tmp_path / "parts"))
    assert not [key for key in whole if "standing" not in key and not torch.equal(whole[key], parts[key])]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": BigGANConfig(resolution=32, width=2)}, "gives no class logits"),
        ({"objective.loss": "hinge", "objective.feature_matching": None}, "labels_per_class=4 is for"),
        ({"train.discriminator_ema_decay": None}, "classify.test_data needs"),
        ({"data.labels_per_class": 0}, "at least 1"),
        ({"classify.every": 0}, "at least 1"),
        ({"train.generator_steps": 0}, "at least 1"),
        ({"train.discriminator_ema_decay": 1.0}, "below 1"),
        ({"objective.loss": "hinge", "data.labels_per_class": None}, "discriminator_ema_decay=0.9 is for"),
        ({"model.discriminator.noise": -1.0}, "model.discriminator.noise=-1.0"),
    ],
)
def test_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        replace_fields(semi_supervised(), changes).check()


def test_a_run_without_a_classifier(tmp_path, capsys):
    folder = train(tiny_config(steps=1), tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds no classifier"):
        open_classifier(folder.path)
    code, _, err = call(capsys, "classify", folder.path, "embedded:digits")
    assert code == 2
    assert "holds no classifier" in err
    code, _, err = call(capsys, "classify", tmp_path / "nowhere", "embedded:digits")
    assert code == 2


def test_test_images_of_other_classes(tmp_path):
    write_pictures(tmp_path / "pictures", {"a": 2, "b": 2})
    with pytest.raises(DataError, match=r"other classes than .*\(0, 1, 2 are only"):
        train(semi_supervised(**{"classify.test_data": str(tmp_path / "pictures")}), tmp_path / "run")
