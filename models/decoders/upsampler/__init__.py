"""Super-resolution by diffusion: the upper levels of a cascade."""
