"""An observation together with the newest transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from jamboree_gym.errors import UnsupportedSpace
from jamboree_gym.wrappers.recent_columns import PREFIX, Array, Column, leaves_of, vector_of

__all__ = ["Past", "RecentView"]

MASK: Final = f"{PREFIX}mask"


class Past:
    """The newest n transactions as arrays: what the columns keep of each.

    Attributes:
        spaces: The space of each array, by name; that of the mask last.
    """

    def __init__(self, columns: Sequence[Column], n: int) -> None:
        self._columns = columns
        self._by_role: dict[str, list[Column]] = {}
        for column in columns:
            self._by_role.setdefault(column.role, []).append(column)
        self._mask = np.zeros(n, np.int8)
        self.spaces: list[tuple[str, spaces.Space[Any]]] = [
            *((column.name, column.space) for column in columns),
            (MASK, spaces.MultiBinary(n)),
        ]

    def set(self, role: str, value: Any) -> None:
        """Copy what the columns need of an observation, an action, ... of the next transaction.

        Raises:
            InvalidRecord: It does not fit; names the column.
        """
        for column in self._by_role.get(role, ()):
            column.set(value)

    def commit(self) -> None:
        """The next transaction is complete: it is the newest, and the oldest is forgotten."""
        for column in self._columns:
            column.commit()
        self._mask[:-1] = self._mask[1:]
        self._mask[-1] = 1

    def clear(self) -> None:
        """Forget all transactions."""
        for column in self._columns:
            column.clear()
        self._mask[:] = 0

    def arrays(self) -> dict[str, Array]:
        """Copies of all, by name, in the order of `spaces`."""
        arrays = {column.name: column.array() for column in self._columns}
        arrays[MASK] = self._mask.copy()
        return arrays


class RecentView:
    """What is seen now and the newest transactions, as one observation; `flatten`: as one vector.

    Attributes:
        space: That of what `observation` returns.

    Raises:
        UnsupportedSpace: A part has no fixed shape, or two have the same name.
    """

    def __init__(self, observation_space: spaces.Space[Any], past: Past, *, flatten: bool) -> None:
        under = "" if isinstance(observation_space, spaces.Dict) else "observation"
        leaves = list(leaves_of(observation_space, "observation"))
        self._leaves = [(leaf.name(under=under), leaf) for leaf in leaves]
        parts: dict[str, spaces.Space[Any]] = {}
        for name, space in (*((name, leaf.space) for name, leaf in self._leaves), *past.spaces):
            if name in parts:
                raise UnsupportedSpace(f"two parts of the observation would be called {name!r}")
            parts[name] = space
        self._ravels = [_ravelled(leaf.space) for leaf in leaves] if flatten else None
        self.space: spaces.Space[Any] = _joined(parts) if flatten else spaces.Dict(parts)

    def observation(self, now: Any, past: Mapping[str, Array]) -> Any:
        """What the environment returned, with these transactions."""
        values = [(name, leaf.of(now)) for name, leaf in self._leaves]
        if self._ravels is None:
            return {**dict(values), **past}
        vectors = [ravel(value) for ravel, (_, value) in zip(self._ravels, values, strict=True)]
        return np.concatenate([*vectors, *past.values()], dtype=np.float32)


def _joined(parts: Mapping[str, spaces.Space[Any]]) -> spaces.Box:
    """The float32 vector that the parts become, one after the other."""
    bounds = [vector_of(part)[:2] for part in parts.values()]
    low, high = (np.concatenate(side) for side in zip(*bounds, strict=True))
    return spaces.Box(low, high, dtype=np.float32)


def _ravelled(space: spaces.Space[Any]) -> Callable[[Any], Array]:
    """Makes a float32 vector of each value of a part of a space."""
    low, _, write = vector_of(space)

    def ravel(value: Any) -> Array:
        row = np.zeros_like(low)
        write(value, row)
        return row

    return ravel
