"""Every option has an effect: it is read by its verb, and where it has none, the user is told."""

import ast
import dataclasses
import importlib
import inspect
import textwrap

import pytest
from conftest import call

from biggan.cli import inputs
from biggan.cli.main import VERBS
from biggan.configs.overrides import flatten, replace_fields
from biggan.configs.presets import PRESETS, preset
from biggan.configs.unused import unused_fields, useless_settings

MODULES = sorted({target.partition(":")[0] for target in VERBS.values()})


def commands_of(name):
    """The command dataclasses of a module of verbs."""
    module = importlib.import_module(name)
    found = [kind for kind in vars(module).values() if dataclasses.is_dataclass(kind) and kind.__module__ == name]
    return [kind for kind in found if kind.__name__.endswith("Command")]


def attributes_read(function):
    """Names x of `command.x`, `self.x` and getattr(command, "x" or a name in a literal list) in a function's source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    if any(isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" for node in ast.walk(tree)):
        names |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return names


def functions_reached(function, seen):
    """The function, and the functions of the command line that it names, all the way down."""
    if function in seen:
        return
    seen.add(function)
    names = {
        node.id for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))) if isinstance(node, ast.Name)
    }
    for name in names:
        other = function.__globals__.get(name)
        if inspect.isfunction(other) and other.__module__.startswith("biggan.cli."):
            functions_reached(other, seen)


ALL = [pytest.param(kind, id=kind.__name__) for name in MODULES for kind in commands_of(name)]


@pytest.mark.parametrize("kind", ALL)
def test_a_verb_reads_all_its_options(kind):
    """Of the function that parses this command, and of what it calls in the command line."""
    module = importlib.import_module(kind.__module__)
    functions = [
        value for value in vars(module).values() if inspect.isfunction(value) and value.__module__ == kind.__module__
    ]
    verbs = [
        one for one in functions if any(f"parse({kind.__name__}" in line for line in inspect.getsource(one).splitlines())
    ]
    assert len(verbs) == 1
    seen = set()
    functions_reached(verbs[0], seen)
    methods = {value for value in vars(kind).values() if inspect.isfunction(value) and not value.__name__.startswith("__")}
    read = set().union(*(attributes_read(function) for function in seen | methods))
    if kind.__name__ == "StudyCommand":
        read.add("preset")  # decides the options themselves, so it is read before they are parsed
    assert {item.name for item in dataclasses.fields(kind)} <= read


def test_what_verbs_share_is_all_needed():
    assert ALL, "commands are found"
    assert {item.name for item in dataclasses.fields(inputs.ScoringOptions)} >= {"data", "extractor", "cache"}


CONDITIONAL = {
    "data.label_seed", "data.shuffle_buffer", "data.skip_broken", "latent.sigma", "latent.annealing_steps",
    "classify.every", "classify.test_data", "data.labels_per_class",
    "eval.recipe", "eval.extractor", "eval.extractor_weights", "eval.reference_images", "eval.max_time_fraction",
    "monitor.singular_values", "monitor.max_time_fraction", "monitor.held_out", "monitor.max_rollbacks",
    "monitor.rollback_lr_factor", "monitor.rollback_r1", "monitor.rollback_r1_interval",
    "objective.margin", "objective.real_target", "objective.generator_target", "objective.unsupervised_weight",
    "objective.feature_layer", "train.max_rollbacks", "train.ema_start", "train.standing_stats_batches",
    "train.sync_bn_group_size", "train.sync_minibatch_discrimination", "train.optimizer_state",
    "train.discriminator_ema_decay", "model.generator.reference_batch_size", "model.discriminator.minibatch_kernel_dim",
    "model.embedding_dim", "model.norm_epsilon",
}  # fmt: skip
"""Fields that only some runs use: named by `unused_fields`, or refused by `check`."""


def test_fields_that_are_named_exist():
    names = {name for known in PRESETS for name in flatten(preset(known))}
    assert names >= CONDITIONAL
    named = {name for known in PRESETS for name in unused_fields(preset(known))}
    assert named <= names


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--eval.recipe", "fid1k"], "eval.recipe"),
        (["--eval.extractor", "dinov2"], "eval.extractor"),
        (["--monitor.every", "None", "--monitor.held-out", "embedded:digits"], "monitor.held_out"),
        (["--data.shuffle-buffer", "9"], "data.shuffle_buffer"),
        (["--monitor.max-rollbacks", "9"], "monitor.max_rollbacks"),
        (["--monitor.on-alarm", "roll-back", "--monitor.rollback-r1", "None", "--monitor.rollback-r1-interval", "2"],
         "monitor.rollback_r1_interval"),
        (["--train.max-rollbacks", "9"], "train.max_rollbacks"),
        (["--train.sync-minibatch-discrimination"], "train.sync_minibatch_discrimination"),
        (["--regularization.discriminator.r1-interval", "9"], "regularization.discriminator.r1_interval"),
        (["--regularization.discriminator.lecam-decay", "0.5"], "regularization.discriminator.lecam_decay"),
        (["--regularization.discriminator.orthogonal-form", "full"], "regularization.discriminator.orthogonal_form"),
        (["--regularization.generator.sigma-layers", "x"], "regularization.generator.sigma_layers"),
        (["--model.generator.reference-batch-size", "9"], "model.generator.reference_batch_size"),
        (["--model.discriminator.minibatch-kernel-dim", "9"], "model.discriminator.minibatch_kernel_dim"),
        (["--classify.every", "9"], "classify.every"),
        (["--eval.every", "5", "--eval.recipe", "is100", "--eval.reference-images", "50"], "eval.reference_images"),
        (["--model.generator.norm", "virtual", "--train.standing-stats-batches", "5"], "train.standing_stats_batches"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_a_setting_without_effect_is_said(capsys, words, field):
    code, _, err = call(capsys, "train", "digits", "--dry-run", "--train.device", "cpu", *words)
    notes = [line for line in err.splitlines() if "has no effect" in line]
    assert (code, len(notes)) == (0, 1), err
    assert notes[0].startswith(f"{field}=")


def test_presets_and_settings_with_effect_are_quiet():
    for known in PRESETS:
        assert useless_settings(preset(known), preset(known)) == []
    base = preset("digits")
    settings = {"eval.every": 5, "eval.recipe": "fid100", "eval.reference_images": 100, "data.flip": True}
    assert useless_settings(replace_fields(base, settings), base) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digits", "--data.label-seed", "3"], "needs data.labels_per_class"),
        (["train", "digits", "--latent.annealing-steps", "3"], "needs latent.distribution=annealed-normal"),
        (["study", "table1", "--data", "x", "--steps", "5", "--train.minutes", "3"], "give one"),
        (["study", "table1", "--data", "x", "--part", "1/2", "--list"], "give one of them"),
        (["bench", "train", "digits", "--batch", "3"], "--batch goes with bench sample and evaluate"),
        (["bench", "data", "digits", "--rounds", "3"], "--rounds goes with"),
        (["bench", "train", "digits", "--compile"], "--compile goes with bench sample"),
        (["bench", "sample", "digits", "--trust-extractor"], "--trust-extractor goes with bench evaluate"),
        (["export", "run", "--to", "hub", "--input", "embedding"], "goes with --to onnx"),
        (["interpolate", "run", "--between", "classes", "--interpolation", "linear"], "latents, which stay"),
        (["neighbors", "run", "--data", "x", "--bf16"], "another --extractor than pixels"),
        (["leakage", "run", "--data", "x"], "unknown option --data"),
        (["memorization", "run", "--data", "x", "--held-out", "y", "--extractor", "x"], "unknown option --extractor"),
        (["evaluate", "embedded:digits", "--data", "embedded:digits", "--resolution", 8, "--seed", 3], "for generators"),
        (["evaluate", "embedded:digits", "--recipe", "is100", "--resolution", 8, "--trust-extractor"], "module:FILE"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_an_option_without_effect_is_refused(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, *words)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert message in err


def test_options_for_another_kind_of_model(capsys, hugging_face, tmp_path):
    code, _, err = call(capsys, "import", hugging_face, "--norm-epsilon", "1e-3", "--out", tmp_path / "out")
    assert (code, "--norm-epsilon is for models of BigGAN-PyTorch" in err) == (2, True)
