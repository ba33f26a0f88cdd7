"""Pictures as PNG (https://www.w3.org/TR/png-3), without a filter."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["png"]

_COLOUR_TYPES: Final = {1: 0, 3: 2, 4: 6}  # by the number of channels: grey, RGB, RGBA


def png(picture: npt.NDArray[np.uint8], *, level: int = -1) -> bytes:
    """A picture (height, width, 1, 3 or 4) as PNG; `level` is that of zlib, 1 = quick."""
    height, width, channels = picture.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = picture.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), level)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
