"""The Gaussians of shifted diffusion: the bank that uses them and the k-means that finds them."""
