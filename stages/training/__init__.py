"""The one training loop of all train_ stages."""
