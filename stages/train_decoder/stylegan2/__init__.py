"""Train StyleGAN2 conditioned on the image embedding."""
