"""Audio files: which are sound, and what the others are."""
