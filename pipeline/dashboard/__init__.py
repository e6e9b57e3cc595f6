"""``corgi dashboard``: the runs of a store in a browser."""
