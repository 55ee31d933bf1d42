"""What a run will take (steps, memory, disk, arithmetic), computed without torch."""
