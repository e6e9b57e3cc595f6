"""The diffusion core of embeddings and images: processes, targets, loss weights, guidance, samplers."""
