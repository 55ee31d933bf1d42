"""Hearing what came out: test speech, its figures, recitation, and the page about the run."""
