"""From prompts, a prior and a decoder to pictures."""
