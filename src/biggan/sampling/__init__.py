"""Sampling: latents, images of a generator, and sets of images to be scored."""
