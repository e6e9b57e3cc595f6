"""Embeddings that a decoder has learned from, towards which those of captions are moved."""
