"""AdamW as OPTIMIZER and MASTER_WEIGHTS choose it: weights in bf16 with or without fp32 copies, moments in 8 bits."""
