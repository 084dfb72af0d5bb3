"""Configs that earlier versions wrote load as today's: every one under records/, and the families by hand."""

import json
from pathlib import Path

import pytest

from biggan.configs.json_io import from_json, to_json
from biggan.configs.migrations import FIELDS, migrate_config
from biggan.configs.overrides import flatten
from biggan.configs.presets import PRESETS, preset
from biggan.configs.run import RunConfig
from biggan.models.registry import FAMILIES

RECORDS = Path(__file__).parents[2] / "records"
FILES = sorted(RECORDS.glob("**/*config.json"))


def load(file: Path) -> RunConfig:
    return from_json(file.read_text(), RunConfig, file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RECORDS)))
def test_every_recorded_config_loads(file):
    config = load(file)
    config.check()
    assert from_json(to_json(config), RunConfig, file) == config


def test_the_records_are_there():
    assert len(FILES) >= 25


def test_values_of_the_digits():
    """A config of the first version: one name for the loss, a switch for skip-z, fields of both networks side by side."""
    config = load(RECORDS / "2026-11-20_digits" / "config.json")
    assert (config.model.width, config.model.discriminator.width) == (8, 16)
    assert config.model.latent_injection == "chunks"
    assert config.objective.loss == "hinge"
    assert config.regularization.generator.orthogonal == 1e-4
    assert config.model.spectral_norm_epsilon == 1e-4


def test_values_of_families():
    """Fields that a record has not are the family's own."""
    sngan = load(RECORDS / "2026-11-21_families" / "sngan-config.json").model
    assert (sngan.family, sngan.generator.reparametrization, sngan.discriminator.hidden_width) == (
        "sngan",
        "plain",
        "inputs",
    )
    assert (sngan.generator.attention, sngan.discriminator.attention) == ((), ())
    deep = load(RECORDS / "2026-11-21_families" / "deep-config.json").model
    assert (deep.family, deep.latent_injection, deep.generator.output_channels) == ("biggan-deep", "whole", None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RECORDS)))
def test_no_value_is_lost(file):
    """Each renamed field of the record stands at its new place with its old value, or with that value's new name."""
    old, new = json.loads(file.read_text()), flatten(load(file))
    family = old["model"]["family"]
    for field in FIELDS:
        *parents, leaf = field.old.split(".")
        owner = old
        for key in parents:
            owner = owner.get(key) if isinstance(owner, dict) else None
        if not isinstance(owner, dict) or leaf not in owner or (field.families and family not in field.families):
            continue
        if not isinstance(owner[leaf], (dict, bool, str)):
            value = tuple(owner[leaf]) if isinstance(owner[leaf], list) else owner[leaf]
            assert new[field.new] == value, field


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_leads_to_fields_that_there_are(family):
    known = flatten(FAMILIES[family].config(**({} if family.startswith("improved") else {"resolution": 32})))
    for field in FIELDS:
        if field.new.startswith("model.") and field.families and family in field.families:
            if field.new == "model.discriminator.hidden_width" and family == "biggan-deep":
                continue  # its bottlenecks have no such choice, and no file of it has the field
            assert field.new.removeprefix("model.") in known, field


@pytest.mark.parametrize("name", PRESETS)
def test_todays_configs_are_left_alone(name):
    data = json.loads(to_json(preset(name)))
    assert migrate_config(data) == data
