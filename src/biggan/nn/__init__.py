"""Layers as plain mathematics: no ranks, files, clocks or optimizers."""
