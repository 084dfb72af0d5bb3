"""What a run keeps on disk: the run directory, checkpoints, model directories."""
