"""The one diffusion core, of embeddings and of images: processes, targets, loss weights, guidance, samplers."""
