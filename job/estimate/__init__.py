"""Estimates of a run's steps, memory, disk space and FLOPs, computed without torch."""
