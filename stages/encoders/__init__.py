"""Pretrained encoders that several stages use."""
