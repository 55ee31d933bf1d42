"""Fast generation with the talker's own modules, without the overhead of transformers' `generate` per frame."""
