"""``corgi generate``: the ways of making images with a finished run."""
