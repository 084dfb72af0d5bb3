"""A run as one frozen value: RunConfig, presets, overrides, migrations."""
