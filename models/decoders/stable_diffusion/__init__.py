"""A fine-tuned Stable Diffusion U-Net."""
