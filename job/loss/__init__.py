"""The loss that equals generation: what a model is fed for a row, what it must predict, and how far it is from that."""
