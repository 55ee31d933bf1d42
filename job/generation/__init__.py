"""Speech from the talker's own modules, frame by frame, without the overhead of transformers' `generate`."""
