"""What the networks minimize: losses, regularizers, differentiable augmentation."""
