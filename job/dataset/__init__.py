"""The prepared dataset: what `prepare` writes, and training and evaluation read."""
