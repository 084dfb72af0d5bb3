"""Training a run: the loop, one step, the hooks around it, resuming."""
