"""Encode every image once, so that latent decoders train without an encoder."""
