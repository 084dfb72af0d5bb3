"""Networks: BigGAN, BigGAN-deep, SA-GAN, SN-GAN, and those of Salimans et al. 2016."""
