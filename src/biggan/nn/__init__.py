"""Neural network layers. They know nothing of ranks, files, clocks or optimizers."""
