"""Drawing images from a generator, and sets of images to be measured."""
