"""Encode every picture once, so that latent decoders train without an encoder."""
