"""Processes and nodes of one run: who this is, how they agree, and how they find one another."""
