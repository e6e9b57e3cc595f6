"""Measures the mean color of every shard's images."""
