"""Judges: each rates how a clip of speech sounds, whoever speaks in it. `registry` lists them."""
