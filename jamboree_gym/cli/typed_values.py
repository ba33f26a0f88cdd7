"""What is typed on a command line: sizes, times, tags."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from jamboree_gym.errors import InvalidArgument

__all__ = [
    "BYTES",
    "SECONDS",
    "amount",
    "env_argument",
    "speed_of",
    "tag_test",
    "tag_value",
    "time_of",
    "value_of",
    "weights_of",
]

BYTES: Final = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
MAX_SHOWN: Final = 60  # characters of what was typed, in an error
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def amount(option: str, text: str | None, units: dict[str, int]) -> float | None:
    """Parse a number with a unit.

    Raises:
        InvalidArgument: The text is no such number.
    """
    if text is None:
        return None
    found = _amount(text, units)
    if found is None:
        raise InvalidArgument(
            f"{option} {_short(text)}: give a number with a unit: "
            f"{', '.join(f'3{one}' for one in units)}"
        )
    return found


def _amount(text: str, units: dict[str, int]) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    unit = "" if found is None else found[2].lower().replace("ib", "b")
    known = {name.lower(): size for name, size in units.items()}
    size = known.get(unit, known.get(f"{unit}b"))  # 2G is 2GB
    return None if found is None or size is None else float(found[1]) * size


def weights_of(text: str) -> list[float]:
    """Parse `0.7,0.3`.

    Raises:
        InvalidArgument: The text is no list of numbers.
    """
    try:
        return list(map(float, text.split(",")))
    except ValueError as error:
        raise InvalidArgument(f"--weights {_short(text)}: give numbers, as 0.7,0.3") from error


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def time_of(option: str, text: str | None) -> float | None:
    """Parse a time as epoch seconds: so long ago (`2h`), an ISO time, or epoch seconds.

    Raises:
        InvalidArgument: The text is none of these.
    """
    if text is None:
        return None
    if (ago_s := _amount(text, SECONDS)) is not None:
        return time.time() - ago_s
    for read in (float, _iso):
        with suppress(ValueError, OverflowError, OSError):
            if math.isfinite(at := read(text)):
                return at
    raise InvalidArgument(
        f"{option} {_short(text)}: give 90s, 30m, 2h or 3d for so long ago, 2026-05-01T10:00 or "
        "epoch seconds"
    )


def _iso(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def speed_of(option: str, text: str) -> float:
    """Parse a speed in steps a second, or `max`; return the seconds of a step.

    Raises:
        InvalidArgument: The text is neither.
    """
    if text == "max":
        return 0.0
    with suppress(ValueError):
        speed = float(text)
        if math.isfinite(speed) and speed > 0:
            return 1 / speed
    raise InvalidArgument(f"{option} {_short(text)}: give steps a second, as 30, or max")


def value_of(text: str) -> Any:
    """A number or a bool if the text reads as one; else the text."""
    words = {"true": True, "false": False}
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return words.get(text.lower(), text)


def tag_value(text: str) -> tuple[str, Any]:
    """Parse `name=value`.

    Raises:
        InvalidArgument: The text does not have this form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidArgument(f"--tag {_short(text)}: give name=value")
    return name, value_of(value)


def env_argument(text: str) -> tuple[str, Any]:
    """Parse `name=value` as an argument of `gymnasium.make`.

    Raises:
        InvalidArgument: The text does not have this form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidArgument(f"--arg {_short(text)}: give name=value")
    return name, value_of(value)


def tag_test(text: str) -> tuple[str, Callable[[Any], bool]]:
    """Parse `name=value` as a condition on a tag: as it prints, or as the number that it reads as.

    Raises:
        InvalidArgument: The text does not have this form.
    """
    name, wanted = tag_value(text)
    typed = text.partition("=")[2]

    def fits(tag: Any) -> bool:
        return str(tag) == typed or (
            isinstance(tag, (bool, int, float)) and not isinstance(wanted, str) and tag == wanted
        )

    return name, fits
