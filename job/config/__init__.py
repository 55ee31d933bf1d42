"""Settings: the variables, how they are read, presets, and where files lie."""
