"""``corgi gc``: what a store holds that no kept run needs."""
