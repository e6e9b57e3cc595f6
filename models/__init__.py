"""The mathematics: pure torch, single device, no files, no network, no Ray."""
