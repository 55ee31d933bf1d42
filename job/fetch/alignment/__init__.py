"""Find the sentences of a text in a long recording of it, by CTC alignment (ALIGN_MODEL)."""
