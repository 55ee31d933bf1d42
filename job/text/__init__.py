"""Languages and their names, and estimates of how long a text takes to speak."""
