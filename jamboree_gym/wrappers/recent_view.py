"""An observation with the newest transactions beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from jamboree_gym.errors import UnsupportedSpace
from jamboree_gym.wrappers.recent_columns import (
    PREFIX,
    Array,
    Column,
    columns_of,
    leaves_of,
    vector_of,
)

__all__ = ["RecentView"]

MASK: Final = f"{PREFIX}mask"


class RecentView:
    """What `RecentTransactionsObservation` shows of one environment; it describes the arguments.

    For each step: `see`, `act`, `keep`. Each copies what it is given, because environments reuse
    their buffers.

    Attributes:
        space: Of what `see` returns.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        n: int,
        *,
        fields: Sequence[str],
        flatten: bool,
    ) -> None:
        under = "" if isinstance(observation_space, spaces.Dict) else "observation"
        leaves = list(leaves_of(observation_space, "observation"))
        self._columns = columns_of(observation_space, action_space, fields, n=n, images=not flatten)
        self._columns_by_role: dict[str, list[Column]] = {}
        for column in self._columns:
            self._columns_by_role.setdefault(column.role, []).append(column)
        self._mask = np.zeros(n, np.int8)
        self._leaves = {leaf.name(under=under): leaf for leaf in leaves}
        parts: dict[str, spaces.Space[Any]] = {}
        for name, space in (
            *((leaf.name(under=under), leaf.space) for leaf in leaves),
            *((column.name, column.space) for column in self._columns),
            (MASK, spaces.MultiBinary(n)),
        ):
            if name in parts:
                raise UnsupportedSpace(f"two parts of the observation would be called {name!r}")
            parts[name] = space
        self.space: spaces.Space[Any]
        self._vectors: dict[str, Callable[[Any], Array]] = {}
        if flatten:
            self.space = _joined(parts)
            self._vectors = {name: _ravelled(leaf.space) for name, leaf in self._leaves.items()}
        else:
            self.space = spaces.Dict(parts)

    def forget(self) -> None:
        """Forget all transactions."""
        for column in self._columns:
            column.clear()
        self._mask[:] = 0

    def see(self, observation: Any) -> Any:
        """What the environment returned: the next transaction begins with it.

        Returns:
            The observation with the newest transactions, in new arrays.
        """
        self._put("observation", observation)
        now = {name: leaf.of(observation) for name, leaf in self._leaves.items()}
        past = {column.name: column.array() for column in self._columns}
        if self._vectors:
            vectors = [self._vectors[name](value) for name, value in now.items()]
            return np.concatenate([*vectors, *past.values(), self._mask], dtype=np.float32)
        return {**now, **past, MASK: self._mask.copy()}

    def act(self, action: Any) -> None:
        """What the agent does; to be called before the environment gets the action."""
        self._put("action", action)

    def keep(self, reward: Any, info: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        """What came of it: the transaction is complete, and is the newest."""
        self._put("reward", reward)
        self._put("info", info)
        self._put("annotation", said)
        for column in self._columns:
            column.commit()
        self._mask[:-1] = self._mask[1:]
        self._mask[-1] = 1

    def _put(self, role: str, value: Any) -> None:
        for column in self._columns_by_role.get(role, ()):
            column.put(value)


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
