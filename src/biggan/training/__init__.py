"""Training as a whole activity: the loop, one step, the moving average."""
