"""Train the first stage of latent decoders: pictures to latents and back."""
