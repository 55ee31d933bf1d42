"""Numbers in fewer bits: bf16 by stochastic rounding, and moments of a byte each."""

from __future__ import annotations

from functools import lru_cache

import torch

from job.config.optimizer_choice import BLOCK

#: Of an fp32's 23 bits of mantissa, those that `quantized` does not look at.
_UNSEEN = 14


def rounded(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Finite fp32 values as bf16, up or down at random so that the expectation is the value itself.

    bf16 is the upper half of an fp32. A uniform integer of 16 bits is added to the lower half, which carries over with
    probability (lower half) / 2^16, and the lower half is cut off (Zamirai et al., "Revisiting BFloat16 Training",
    2020, section 3; the bit trick as in torchao's `_fp32_to_bf16_sr`). Values that bf16 holds exactly stay as they are,
    and what is not finite stays what it is.

    Args:
        values: fp32, of any shape.
        generator: of the values' device.

    Returns:
        bf16 of the same shape.
    """
    dice = torch.randint(0, 1 << 16, values.shape, generator=generator, device=values.device, dtype=torch.int32)
    bits = dice.add_(values.view(torch.int32)).bitwise_and_(-1 << 16)
    return torch.where(values.isfinite(), bits.view(torch.float32), values).bfloat16()


def quantized(values: torch.Tensor, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks of `BLOCK` values as a byte each: the nearest value of the dynamic map, times the block's largest.

    (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", ICLR 2022, sections 2.1 and 2.2.) The nearest one
    is looked up by sign, exponent and the upper 9 bits of the mantissa: a binary search would take twenty times as
    long on a CPU, and the map's steps are 8 times as wide or more. Without a sign, only 0 becomes 0: a second moment
    that is lost where the first is kept would make an update of any size.

    Args:
        values: (n,) fp32; none is negative unless `signed`.

    Returns:
        codes (n,) uint8, and scales (ceil(n / BLOCK),) fp32.
    """
    count = values.numel()
    blocks = torch.nn.functional.pad(values, (0, -count % BLOCK)).view(-1, BLOCK)
    scales = (blocks.abs() if signed else blocks).amax(1)
    normed = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(1)
    index = normed.view(torch.int32).bitwise_right_shift_(_UNSEEN).bitwise_and_((1 << 32 - _UNSEEN) - 1)
    codes = _tables(signed, values.device)[1].index_select(0, index.view(-1))
    return codes[:count], scales


def restored(codes: torch.Tensor, scales: torch.Tensor, signed: bool) -> torch.Tensor:
    """(n,) fp32 of what `quantized` gave."""
    values = _tables(signed, codes.device)[0].index_select(0, codes.int())
    count = values.numel()
    whole = count // BLOCK * BLOCK
    values[:whole].view(-1, BLOCK).mul_(scales[: count // BLOCK].unsqueeze(1))
    values[whole:].mul_(scales[-1])
    return values


def dynamic_map(signed: bool) -> torch.Tensor:
    """(256,) fp32, ascending: 0, 1 and the middles of the parts that each decade from 10^-7 to 1 is cut into.

    A decade has twice as many parts as the one below it, so large values are precise and small ones are not lost; as
    `create_dynamic_map` of bitsandbytes. An unsigned map has twice the parts instead of negative values.
    """
    values = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
    for decade in range(7):
        edges = torch.linspace(0.1, 1.0, 2**decade * (1 if signed else 2) + 1, dtype=torch.float64)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (decade - 6)
        values += [middles, -middles] if signed else [middles]
    return torch.cat(values).sort().values.float()


@lru_cache(maxsize=8)
def _tables(signed: bool, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The map, and for every sign, exponent and beginning of a mantissa the code of the nearest value."""
    values = dynamic_map(signed)
    beginnings = torch.arange(1 << 32 - _UNSEEN, dtype=torch.int64) << _UNSEEN
    middles = (beginnings + (1 << _UNSEEN - 1)).to(torch.int32).view(torch.float32)
    nearest = torch.bucketize(middles, (values[1:] + values[:-1]) / 2)
    if not signed:
        nearest[1:].clamp_min_(1)
    return values.to(device), nearest.to(torch.uint8).to(device)
