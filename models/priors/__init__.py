"""Priors: from a caption to a CLIP image embedding."""
