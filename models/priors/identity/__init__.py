"""The trivial prior: the text embedding itself."""
