"""Fine-tune a Stable Diffusion checkpoint to draw from image embeddings."""
