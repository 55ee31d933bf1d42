"""Cyclic redundancy checks (CRC) as used by FLAC and Ogg (most significant bit first), which no dependency provides."""

from __future__ import annotations

from functools import lru_cache


def crc(content: bytes, bits: int, polynomial: int) -> int:
    """CRC of `bits` bits; 0 for data that ends with its own CRC."""
    table, mask = _table(bits, polynomial), (1 << bits) - 1
    value = 0
    for byte in content:
        value = (value << 8 & mask) ^ table[value >> (bits - 8) ^ byte]
    return value


@lru_cache
def _table(bits: int, polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (bits - 1) & 1 else 0)
            value &= (1 << bits) - 1
        table.append(value)
    return table
