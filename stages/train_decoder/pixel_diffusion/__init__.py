"""Train a diffusion of pixels, the first model of a cascade."""
