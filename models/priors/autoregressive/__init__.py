"""The autoregressive prior of DALL-E 2."""
