"""Priors and decoders on one GPU: speed, use of the card, memory, and agreement with the CPU."""
