"""The one training loop that all train_ stages share."""
