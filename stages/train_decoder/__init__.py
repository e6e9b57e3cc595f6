"""Train the decoder: from an image embedding to an image."""
