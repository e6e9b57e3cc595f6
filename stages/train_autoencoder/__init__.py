"""Train the first stage of latent decoders: images to latents and back."""
