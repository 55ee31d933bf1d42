"""The prepared dataset, which `prepare` writes and training and evaluation read."""
