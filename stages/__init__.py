"""The work: one package per stage, and what all stages share (contract, artifacts, events, training, encoders)."""
