"""Files behind HTTP addresses, within limits."""
