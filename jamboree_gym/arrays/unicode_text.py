"""Whether a text is valid Unicode. Apart from `values`, which loads NumPy and Gymnasium."""

from __future__ import annotations

__all__ = ["is_unicode"]


def is_unicode(text: str) -> bool:
    """Whether a text can be stored."""
    return text.isascii() or text.encode(errors="replace").decode() == text
