"""Finding and loading the base model, its speaker encoder, and conversions of finished checkpoints."""
