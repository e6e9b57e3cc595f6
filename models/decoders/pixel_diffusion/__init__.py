"""Diffusion of pixels."""
