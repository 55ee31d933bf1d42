"""Memory and requirements of OPTIMIZER and MASTER_WEIGHTS, without torch."""

from __future__ import annotations

from job.config.settings import Settings
from job.core.errors import BadInput

#: Values of a moment that share a scale under OPTIMIZER=adamw_8bit.
BLOCK = 256
#: Tensors with fewer values (norms, biases) keep their moments in fp32, since there is little to save (as in
#: bitsandbytes).
SMALLEST = 4096


def trained_bytes(settings: Settings) -> float:
    """Bytes per trained parameter: its weight, its gradient and AdamW's two moments.

    fp32 takes 4 + 4 + 8. bf16 weights have bf16 gradients: 2 + 2, and 4 for an fp32 copy where there is one. An 8-bit
    moment takes one byte, and an fp32 scale per block.
    """
    weight_and_gradient = 4.0 if in_bf16(settings) and not has_fp32_copies(settings) else 8.0
    moments = 2 * (1 + 4 / BLOCK) if settings.optimizer == "adamw_8bit" else 8.0
    return weight_and_gradient + moments


def saved_bytes(settings: Settings) -> float:
    """Bytes per trained parameter in a checkpoint to resume from: all of `trained_bytes` but the gradient."""
    return trained_bytes(settings) - (2.0 if in_bf16(settings) else 4.0)


def in_bf16(settings: Settings) -> bool:
    """Whether the model holds its trained weights in bf16."""
    return settings.master_weights != "fp32"


def has_fp32_copies(settings: Settings) -> bool:
    """Whether the optimizer keeps fp32 copies of bf16 weights."""
    return settings.master_weights == "bf16_with_fp32"


#: Kinds of an optimizer's state, by the names that checkpoints have of them: one of a kind can load another's.
PLAIN, MASTER, COMPACT, EIGHT_BIT = "AdamW", "MasterAdamW", "CompactAdamW", "CompactAdamW8"
#: The settings with which each is written.
_WRITTEN_WITH = {
    PLAIN: "OPTIMIZER=adamw_fused or adamw, MASTER_WEIGHTS=fp32",
    MASTER: "OPTIMIZER=adamw_fused or adamw, MASTER_WEIGHTS=bf16_with_fp32",
    COMPACT: "OPTIMIZER=adamw_fused or adamw, MASTER_WEIGHTS=bf16_stochastic",
    EIGHT_BIT: "OPTIMIZER=adamw_8bit, MASTER_WEIGHTS=fp32 or bf16_stochastic",
}


def kind_of(settings: Settings) -> str:
    """The kind of state that the settings' optimizer has."""
    if settings.optimizer == "adamw_8bit":
        return EIGHT_BIT
    if has_fp32_copies(settings):
        return MASTER
    return COMPACT if in_bf16(settings) else PLAIN


def other_kind(found: str, wanted: str) -> str | None:
    """Why a checkpoint with the state of one kind of optimizer is none for another; None if they are the same."""
    if found == wanted:
        return None
    return f"it was written with {_WRITTEN_WITH.get(found, found)}; set these as they were, or RESUME=never"


def check(settings: Settings, precision: str | None = None) -> None:
    """Refuse settings that cannot be combined.

    Args:
        precision: the precision that MIXED_PRECISION resolves to, when the device is known.

    Raises:
        BadInput: naming the variable and the fix.
    """
    if settings.distributed == "fsdp":
        for name, value in (("OPTIMIZER", settings.optimizer), ("MASTER_WEIGHTS", settings.master_weights)):
            if value in ("adamw_8bit", "bf16_stochastic", "bf16_with_fp32"):
                raise BadInput(
                    f"{name}={value}: cannot be combined with DISTRIBUTED=fsdp, which shards weights and moments; use "
                    "DISTRIBUTED=ddp, or fp32 with adamw_fused"
                )
    if has_fp32_copies(settings) and settings.optimizer == "adamw_8bit":
        raise BadInput(
            "MASTER_WEIGHTS=bf16_with_fp32: cannot be combined with OPTIMIZER=adamw_8bit; use adamw_fused, or "
            "MASTER_WEIGHTS=bf16_stochastic"
        )
    if in_bf16(settings) and precision not in (None, "bf16"):
        raise BadInput(
            f"MASTER_WEIGHTS={settings.master_weights}: needs bf16 arithmetic, but MIXED_PRECISION="
            f"{settings.mixed_precision} gives {precision} here; set MIXED_PRECISION=bf16, or MASTER_WEIGHTS=fp32"
        )
