"""Generators and discriminators of BigGAN, BigGAN-deep, SA-GAN, SN-GAN, and of Salimans et al. 2016."""
