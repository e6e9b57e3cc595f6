"""Inspect what stages produced: counts, losses, captions, sizes, samples; as text, JSON or an HTML page."""
