"""Decoders: from a CLIP image embedding to an image. Specs and registry import no torch."""
