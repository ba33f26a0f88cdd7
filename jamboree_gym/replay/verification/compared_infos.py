"""Which infos of an episode are compared, and what the second run has of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jamboree_gym.arrays.difference import NOTHING, Difference, Tolerance, differences, quoted
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.encoding.info_codec import InfoEncoder

__all__ = ["WatchedInfos"]

# What a vector environment has put into arrays of these comes back as Python numbers.
_PYTHON_DTYPES = (np.dtype(bool), np.dtype(int), np.dtype(float))


class WatchedInfos:
    """Infos of the second run, beside those that are recorded.

    Args:
        asked: Names of the infos, those of nested dicts with dots; True: all that are recorded.
        recorded: The recorded infos, row by row.
        ignored: Names that do not count among all.
        is_batched: Whether the recorded ones came through a vector environment.

    Attributes:
        encoded: Encoded infos of the second run, row by row.
    """

    def __init__(
        self,
        asked: bool | Sequence[str],
        recorded: Sequence[Mapping[Any, Any]],
        *,
        ignored: Collection[str] = (),
        is_batched: bool = False,
    ) -> None:
        everything = dict.fromkeys(name for info in recorded for name in info)
        names = [name for name in everything if name not in ignored]
        self._names: Sequence[Any] = names if isinstance(asked, bool) else asked
        self._recorded = recorded
        self._is_batched = is_batched
        self._encoder = InfoEncoder()
        self.encoded: list[bytes | None] = []

    def add(self, info: Mapping[Any, Any]) -> None:
        """Encode what is compared of an info, as it is now."""
        chosen = self._chosen(info)
        self.encoded.append(
            self._encoder.encode(_unbatched(chosen) if self._is_batched else chosen)
        )

    def unseen(self) -> list[str]:
        """Names that no info of either run has."""
        runs = (self._recorded, map(_decoded, self.encoded))
        seen = {name for infos in runs for info in infos for name in self._chosen(info)}
        return [name for name in self._names if name not in seen]

    def differing_rows(self, tolerance: Tolerance) -> Iterator[int]:
        """Rows whose infos differ, in order."""
        for row, encoded in enumerate(self.encoded):
            chosen = self._chosen(self._recorded[row])
            is_same = encoded == (encode_value(chosen) if chosen else None)
            if not is_same and any(self.differences(row, tolerance)):
                yield row

    def differences(self, row: int, tolerance: Tolerance) -> Iterator[Difference]:
        """Where the infos of a row differ."""
        recorded, simulated = self._recorded[row], _decoded(self.encoded[row])
        for name in self._names:
            parts = _found(recorded, name), simulated.get(name, NOTHING)
            if parts[0] is not NOTHING or parts[1] is not NOTHING:
                yield from differences(f"info{_place(recorded, name)}", *parts, tolerance)

    def _chosen(self, info: Mapping[Any, Any]) -> dict[Any, Any]:
        found = {name: _found(info, name) for name in self._names}
        return {name: value for name, value in found.items() if value is not NOTHING}


def _found(info: Any, name: Any) -> Any:
    """The value of a name; a dot goes into the dict before it."""
    if name in info:
        return info[name]
    outer, dot, inner = name.partition(".") if isinstance(name, str) else (name, "", "")
    return _found(info[outer], inner) if dot and isinstance(info.get(outer), Mapping) else NOTHING


def _place(info: Mapping[Any, Any], name: Any) -> str:
    names = name.split(".") if isinstance(name, str) and name not in info else [name]
    return "".join(f"[{quoted(part)}]" for part in names)


def _decoded(encoded: bytes | None) -> Mapping[Any, Any]:
    return {} if encoded is None else decode_value(encoded, where="memory")


def _unbatched(value: Any) -> Any:
    """As a recorder gets it out of the infos of a vector environment."""
    if isinstance(value, dict):
        return {name: _unbatched(part) for name, part in value.items()}
    if isinstance(value, np.generic) and value.dtype in _PYTHON_DTYPES:
        return value.item()
    return value
