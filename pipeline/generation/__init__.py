"""``corgi generate``: the ways of making pictures with a finished run."""
