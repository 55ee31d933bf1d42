"""The processes and nodes of a distributed run: ranks, communication between them, and rendezvous."""
