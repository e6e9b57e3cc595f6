"""A transformer over the codes of a VQ autoencoder."""
