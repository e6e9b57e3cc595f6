"""Priors by flow matching, from noise, from the Gaussians, or from the text embedding."""
