"""Priors by diffusion, from fitted Gaussians (shifted) or a fixed one (gaussian)."""
