"""Languages and their names, and how much speech a text is."""
