"""Train a transformer that writes images as codes of a VQ autoencoder."""
