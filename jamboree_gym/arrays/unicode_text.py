"""Texts: valid Unicode, and short ones. Apart from `values`, which loads NumPy and Gymnasium."""

from __future__ import annotations

__all__ = ["is_unicode", "shortened"]


def is_unicode(text: str) -> bool:
    """Whether a text can be stored."""
    return text.isascii() or text.encode(errors="replace").decode() == text


def shortened(text: str, longest: int) -> str:
    """A text of no more characters than that, for a message."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
