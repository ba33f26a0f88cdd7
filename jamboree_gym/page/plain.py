"""What the page sends: JSON without NaN, and texts that name no path of this machine."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np

__all__ = ["as_json", "short_text", "without_paths"]

MAX_TEXT = 2000
_PATH = re.compile(r"(?<![\w:/])(?:[A-Za-z]:\\|~?/)(?:[\w.@+-]+[/\\])+[\w.@+-]*")
_LOGIN = re.compile(r"://[^\s/@]*@")


def as_json(value: Any) -> bytes:
    """A value as JSON; NaN and infinity are null."""
    return msgspec.json.encode(value, enc_hook=_other)


def _other(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return short_text(value)


def short_text(value: object, most: int = MAX_TEXT) -> str:
    """A value as text of bounded length, without paths and logins."""
    text = without_paths(value if isinstance(value, str) else str(value))
    return text if len(text) <= most else f"{text[: most - 3]}..."


def without_paths(value: Any) -> Any:
    """The same texts, dicts and lists, with an ellipsis in place of each path and each login."""
    if isinstance(value, str):
        return _PATH.sub("…", _LOGIN.sub("://…@", value))
    if isinstance(value, dict):
        return {str(name): without_paths(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(part) for part in value]
    return value
