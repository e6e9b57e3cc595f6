"""Train a transformer that writes pictures as codes of a VQ autoencoder."""
