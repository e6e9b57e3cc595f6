"""From prompts, a prior and a decoder to images."""
