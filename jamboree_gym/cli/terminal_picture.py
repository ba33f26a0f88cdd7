"""What an environment renders, as lines of a terminal: a text, or a picture in coloured blocks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jamboree_gym.cli.live_screen import Drawing
from jamboree_gym.cli.output import encodable
from jamboree_gym.wording import one_line

if TYPE_CHECKING:
    import numpy as np

__all__ = ["rendered_lines"]

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_USUAL = "\x1b[0m"
_UPPER_HALF = "▀"
_GREYS = " .:-=+*#%@"


def rendered_lines(frame: Any, columns: int, rows: int) -> Sequence[Drawing]:
    """A rendered text or picture as at most so many lines.

    Args:
        frame: A text; or a picture, uint8 (height, width, 3).
        columns: Width of the terminal, in characters.
        rows: Number of lines that are free.
    """
    if isinstance(frame, str):
        return [Drawing(_only_colours(line) + _USUAL) for line in frame.splitlines()[:rows]]
    import numpy as np

    picture = np.asarray(frame)
    if picture.ndim != 3 or picture.shape[2] < 3 or not picture.size or rows < 1:
        return []
    height, width = picture.shape[:2]
    scale = min(columns / width, 2 * rows / height)
    size = max(2, int(height * scale) // 2 * 2), max(1, int(width * scale))
    pixels = _resized(picture[..., :3], *size)
    if "NO_COLOR" in os.environ or encodable(_UPPER_HALF) != _UPPER_HALF:
        return [Drawing(line) for line in _in_greys(pixels)]
    return [Drawing(line) for line in _in_colours(pixels)]


def _only_colours(line: str) -> str:
    """A text of the environment without what would move the cursor."""
    parts = _COLOUR.split(line)
    return "".join(part if at % 2 else encodable(one_line(part)) for at, part in enumerate(parts))


def _resized(picture: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """Means where it becomes smaller, the same pixels several times where it becomes larger."""
    import numpy as np

    tall, wide = picture.shape[:2]
    rows = np.linspace(0, tall, height + 1).astype(int)
    columns = np.linspace(0, wide, width + 1).astype(int)
    if height > tall or width > wide:
        return np.asarray(picture[rows[:-1]][:, columns[:-1]])
    sums = np.add.reduceat(picture.astype(np.float64), rows[:-1], axis=0)
    sums = np.add.reduceat(sums, columns[:-1], axis=1)
    counts = np.outer(np.diff(rows), np.diff(columns))
    return np.asarray((sums / counts[..., None]).astype(np.uint8))


def _in_colours(pixels: np.ndarray[Any, Any]) -> list[str]:
    """Two pixels in each character: the colour of its upper half, and of what is behind it."""
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        parts, before = [], None
        for pair in zip(upper, lower, strict=True):
            if pair != before:
                (r, g, b), (red, green, blue) = pair
                parts.append(f"\x1b[38;2;{r};{g};{b};48;2;{red};{green};{blue}m")
                before = pair
            parts.append(_UPPER_HALF)
        lines.append("".join([*parts, _USUAL]))
    return lines


def _in_greys(pixels: np.ndarray[Any, Any]) -> list[str]:
    levels = pixels.mean(axis=2).reshape(len(pixels) // 2, 2, -1).mean(axis=1)
    steps = (levels * len(_GREYS) / 256).astype(int)
    return ["".join(_GREYS[one] for one in row) for row in steps.tolist()]
