"""Train a diffusion in the latent space of train_autoencoder."""
