"""``corgi export``: a run's models in a folder of their own, for other people and other programs."""
