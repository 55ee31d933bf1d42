"""What `gpu_check.py` consists of: the cases, the process that runs them, and what is said about them in the end."""
