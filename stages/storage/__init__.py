"""Bytes: artifacts on any file system, the local cache of remote files, row-wise reading of .npy files."""
