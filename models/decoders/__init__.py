"""Decoders: from a CLIP image embedding to an image (method section 3). Specs and registry import no torch."""
