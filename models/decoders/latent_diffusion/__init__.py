"""Diffusion in the latent space of an autoencoder."""
