"""The base model and what is made of it: finding, loading, other forms, the speaker encoder."""
