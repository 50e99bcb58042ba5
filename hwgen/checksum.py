"""The checksum of programs and weight images that drivers check before they hand them to the hardware.

CRC-32 as in zip files and Ethernet: polynomial 0x04C11DB7 reflected, start and final inversion 0xFFFFFFFF. Finds every error of up
to 32 bits in a row and, at the sizes here, every pair of flipped bits; it is no protection against intent. The C definition is
hls/include/hwgen/crc32.h, which the RTL driver and the HLS host and bench include.
"""

from __future__ import annotations

import zlib


def crc32(data: bytes) -> int:
    """Of bytes -> 32 bits, unsigned."""
    return zlib.crc32(data)
