"""First stages of latent decoders: images to a small grid of latents or codes, and back."""
