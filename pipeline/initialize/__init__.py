"""A first experiment for images that are looked at: `corgi init`."""
