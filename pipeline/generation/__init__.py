"""``corgi generate``: images from a finished run."""
