"""StyleGAN2 conditioned on a CLIP image embedding."""
