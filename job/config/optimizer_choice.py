"""What OPTIMIZER and MASTER_WEIGHTS take of memory and what they ask for, without torch."""

from __future__ import annotations

from job.config.settings import Settings
from job.core.errors import BadInput

#: Values of a moment that share a scale under OPTIMIZER=adamw_8bit.
BLOCK = 256
#: Tensors with fewer values (norms, biases) keep their moments in fp32: nothing to save, as bitsandbytes has it.
SMALLEST = 4096


def trained_bytes(settings: Settings) -> float:
    """Bytes that a trained parameter takes: its weight, its gradient and the two moments of AdamW.

    fp32 is 4 + 4 + 8. bf16 weights have bf16 gradients, 2 + 2. A moment of 8 bits is a byte, and an fp32 scale a block.
    """
    weight_and_gradient = 4.0 if in_bf16(settings) else 8.0
    moments = 2 * (1 + 4 / BLOCK) if settings.optimizer == "adamw_8bit" else 8.0
    return weight_and_gradient + moments


def in_bf16(settings: Settings) -> bool:
    """Whether the trained weights are kept in bf16 and nowhere in fp32."""
    return settings.master_weights == "bf16_stochastic"


def check(settings: Settings, precision: str | None = None) -> None:
    """Refuse what does not go together.

    Args:
        precision: what MIXED_PRECISION comes to, where the device is known.

    Raises:
        BadInput: naming the variable and the fix.
    """
    if settings.distributed == "fsdp":
        for name, value in (("OPTIMIZER", settings.optimizer), ("MASTER_WEIGHTS", settings.master_weights)):
            if value in ("adamw_8bit", "bf16_stochastic"):
                raise BadInput(
                    f"{name}={value}: does not go with DISTRIBUTED=fsdp, which cuts weights and moments up; use "
                    "DISTRIBUTED=ddp, or fp32 with adamw_fused"
                )
    if in_bf16(settings) and precision not in (None, "bf16"):
        raise BadInput(
            f"MASTER_WEIGHTS=bf16_stochastic: needs bf16 arithmetic, and MIXED_PRECISION={settings.mixed_precision} "
            f"comes to {precision} here; set MIXED_PRECISION=bf16, or MASTER_WEIGHTS=fp32"
        )
