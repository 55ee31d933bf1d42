"""Copies of a run's data and checkpoints in another place, for machines whose disks vanish (MIRROR_CHECKPOINTS)."""
