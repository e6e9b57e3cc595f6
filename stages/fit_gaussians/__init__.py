"""Fit the Gaussians of shifted diffusion to the image embeddings."""
