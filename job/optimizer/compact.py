"""Reduced-precision storage: bf16 by stochastic rounding, and optimizer moments in 8 bits."""

from __future__ import annotations

from functools import lru_cache

import torch

from job.config.optimizer_choice import BLOCK

#: How many of an fp32's 23 mantissa bits `quantized` ignores.
_UNSEEN = 14


def rounded(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Round finite fp32 values to bf16 stochastically, so that the expectation is the value itself.

    bf16 is the upper half of an fp32. A uniform 16-bit integer is added to the lower half, which carries over with
    probability (lower half) / 2^16, and the lower half is truncated (Zamirai et al., "Revisiting BFloat16 Training",
    2020, section 3; the bit trick as in torchao's `_fp32_to_bf16_sr`). Values that bf16 represents exactly are
    unchanged, and so are non-finite ones.

    Args:
        values: fp32, of any shape.
        generator: on the values' device.

    Returns:
        bf16 of the same shape.
    """
    dice = torch.randint(0, 1 << 16, values.shape, generator=generator, device=values.device, dtype=torch.int32)
    bits = dice.add_(values.view(torch.int32)).bitwise_and_(-1 << 16)
    return torch.where(values.isfinite(), bits.view(torch.float32), values).bfloat16()


def quantized(values: torch.Tensor, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize to 8 bits in blocks of `BLOCK` values: the nearest value of the dynamic map, times the block's maximum.

    (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", ICLR 2022, sections 2.1 and 2.2.) The nearest one
    is looked up by sign, exponent and the upper 9 bits of the mantissa: a binary search would take twenty times as
    long on a CPU, and the map's steps are at least 8 times as wide. Unsigned, only 0 becomes 0: a second moment rounded
    to 0 beside a nonzero first moment would make an arbitrarily large update.

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
    """Dequantize what `quantized` returned to (n,) fp32."""
    values = _tables(signed, codes.device)[0].index_select(0, codes.int())
    count = values.numel()
    whole = count // BLOCK * BLOCK
    values[:whole].view(-1, BLOCK).mul_(scales[: count // BLOCK].unsqueeze(1))
    values[whole:].mul_(scales[-1])
    return values


def dynamic_map(signed: bool) -> torch.Tensor:
    """Build the dynamic map, (256,) fp32 ascending: 0, 1 and the midpoints of intervals in each decade of [10^-7, 1].

    A decade has twice as many intervals as the one below it, so large values are precise and small ones are not lost;
    as in bitsandbytes' `create_dynamic_map`. An unsigned map has twice as many intervals instead of negative values.
    """
    values = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
    for decade in range(7):
        edges = torch.linspace(0.1, 1.0, 2**decade * (1 if signed else 2) + 1, dtype=torch.float64)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (decade - 6)
        values += [middles, -middles] if signed else [middles]
    return torch.cat(values).sort().values.float()


@lru_cache(maxsize=8)
def _tables(signed: bool, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the map, and the code of the nearest value for every sign, exponent and upper part of the mantissa."""
    values = dynamic_map(signed)
    beginnings = torch.arange(1 << 32 - _UNSEEN, dtype=torch.int64) << _UNSEEN
    middles = (beginnings + (1 << _UNSEEN - 1)).to(torch.int32).view(torch.float32)
    nearest = torch.bucketize(middles, (values[1:] + values[:-1]) / 2)
    if not signed:
        nearest[1:].clamp_min_(1)
    return values.to(device), nearest.to(torch.uint8).to(device)
