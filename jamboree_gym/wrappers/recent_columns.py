"""The newest transactions as arrays of a fixed shape, with the spaces that these lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from jamboree_gym.arrays.tensors import detached
from jamboree_gym.arrays.values import shown
from jamboree_gym.errors import InvalidArgument, InvalidRecord, UnsupportedSpace

__all__ = [
    "ANNOTATION",
    "PREFIX",
    "Array",
    "Column",
    "Leaf",
    "Write",
    "columns_of",
    "leaves_of",
    "vector_of",
]

Array = npt.NDArray[Any]
Write = Callable[[Any, Array], None]
"""Writes a value into a row of a column."""

PREFIX: Final = "recent_"
INFO: Final = "info_"
ANNOTATION: Final = "annotation_"


# -- the parts of a space -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A part of a space that is one array or one number, and the keys that lead to it."""

    path: tuple[Any, ...]
    space: spaces.Space[Any]

    def name(self, *, under: str) -> str:
        """Its keys, joined by `_`: SB3 allows no dots in the names of a Dict."""
        return "_".join(filter(None, [under, *map(str, self.path)]))

    def of(self, value: Any) -> Any:
        """This part of a value."""
        for key in self.path:
            value = value[key]
        return value


def leaves_of(space: spaces.Space[Any], role: str, path: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    """The parts of a space, however its Dicts and Tuples are nested.

    Raises:
        UnsupportedSpace: A part has no fixed shape; names it.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces
        for key, part in parts.items() if isinstance(parts, dict) else enumerate(parts):
            yield from leaves_of(part, role, (*path, key))
    elif isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        yield Leaf(path, space)
    else:
        raise UnsupportedSpace(
            f"the {role} space holds {space!r}, which has no fixed shape: leave it out with "
            "gymnasium.wrappers.FilterObservation, or leave the field out"
        )


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether Stable-Baselines3 takes it for an image (its `is_image_space`)."""
    return (
        isinstance(space, spaces.Box)
        and len(space.shape) == 3
        and space.dtype == np.uint8
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


# -- columns ------------------------------------------------------------------------------------


class Column:
    """One value of each of the newest n transactions, oldest first; zeros before the first.

    Args:
        name: Its key in the observation.
        role: The field of `StepData` that it is read off.
        low, high: Lowest and highest values of a row.
        write: Writes a value into a row.
        n: How many rows.
        channel_axis: Of an image: the axis along which rows are put side by side. None: rows are
            put one after the other into one vector.
    """

    def __init__(
        self,
        name: str,
        role: str,
        low: Array,
        high: Array,
        write: Write,
        *,
        n: int,
        channel_axis: int | None = None,
    ) -> None:
        self.name, self.role = name, role
        self._write = write
        self._channel_axis = channel_axis
        self._rows = np.zeros((n + 1, *low.shape), low.dtype)  # the last one waits for the others
        lows, highs = np.stack([np.minimum(low, 0)] * n), np.stack([np.maximum(high, 0)] * n)
        self.space = spaces.Box(self._arranged(lows), self._arranged(highs), dtype=low.dtype.type)

    def set(self, value: Any) -> None:
        """Set what the next transaction has here.

        Raises:
            InvalidRecord: The value does not fit the declared space; names both.
        """
        try:
            self._write(value, self._rows[-1])
        except Exception as error:  # whatever a conversion of another library raises
            raise InvalidRecord(f"{self.name}: {shown(value)} does not fit: {error}") from error

    def commit(self) -> None:
        """The next transaction is complete: it becomes the newest."""
        self._rows[:-1] = self._rows[1:]

    def clear(self) -> None:
        """Forget all rows."""
        self._rows[:] = 0

    def array(self) -> Array:
        """A copy of the rows."""
        return self._arranged(self._rows[:-1]).copy()

    def _arranged(self, rows: Array) -> Array:
        axis = self._channel_axis
        if axis is None:
            return rows.reshape(-1)
        if axis == 0:
            return rows.reshape(-1, *rows.shape[2:])
        return np.moveaxis(rows, 0, 2).reshape(*rows.shape[1:3], -1)


def columns_of(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    fields: Sequence[str],
    *,
    n: int,
    images: bool,
) -> list[Column]:
    """A column for each part of each field, with n rows.

    Without `images` these become vectors, too. The spaces are those of the environment.

    Raises:
        InvalidArgument: A field is none of `observations`, `actions`, `rewards`, `info_<key>` and
            `annotation_<name>`.
        UnsupportedSpace: A space that is asked for has no fixed shape.
    """
    columns = []
    for field in fields:
        if field in ("observations", "actions"):
            role = field.removesuffix("s")
            space = observation_space if role == "observation" else action_space
            for leaf in leaves_of(space, role):
                name = leaf.name(under=PREFIX + field)
                columns.append(_column_of_leaf(leaf, name, role, n=n, images=images))
        elif field == "rewards":
            columns.append(_column_of_numbers(field, "reward", None, n=n))
        elif field.startswith((INFO, ANNOTATION)):
            role, _, key = field.partition("_")
            columns.append(_column_of_numbers(field, role, key, n=n))
        else:
            raise InvalidArgument(
                f"fields: {field!r} is none of observations, actions, rewards, info_<key> and "
                "annotation_<name>"
            )
    return columns


def _column_of_leaf(leaf: Leaf, name: str, role: str, *, n: int, images: bool) -> Column:
    if images and is_image(leaf.space):
        shape = leaf.space.shape or ()
        low, high = np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)
        axis = 0 if int(np.argmin(shape)) == 0 else 2

        def write_image(value: Any, row: Array) -> None:
            row[:] = detached(leaf.of(value))

        return Column(name, role, low, high, write_image, n=n, channel_axis=axis)
    low, high, write = vector_of(leaf.space)
    return Column(name, role, low, high, lambda value, row: write(leaf.of(value), row), n=n)


def vector_of(space: spaces.Space[Any]) -> tuple[Array, Array, Write]:
    """Lowest and highest values of a part of a space as a float32 vector, and how to make it."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return _one_hot(space)
    if isinstance(space, spaces.Box):
        with np.errstate(over="ignore"):
            low, high = space.low.astype(np.float32).ravel(), space.high.astype(np.float32).ravel()
    else:
        size = int(np.prod(space.shape or ()))
        low, high = np.zeros(size, np.float32), np.ones(size, np.float32)

    def write(value: Any, row: Array) -> None:
        row[:] = np.ravel(detached(value))

    def write_wide(value: Any, row: Array) -> None:
        with np.errstate(over="ignore"):  # beyond float32 it is infinite
            row[:] = np.ravel(detached(value))

    return low, high, write_wide if space.dtype == np.float64 else write


def _one_hot(space: spaces.Discrete | spaces.MultiDiscrete) -> tuple[Array, Array, Write]:
    """As `vector_of`. A number outside the space becomes zeros: the environment may object."""
    counts = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    starts = np.repeat(np.ravel(space.start), counts)
    categories = starts + np.concatenate([np.arange(count) for count in counts])
    low, high = np.zeros(len(categories), np.float32), np.ones(len(categories), np.float32)

    def write(value: Any, row: Array) -> None:
        row[:] = categories == detached(value)

    def write_several(value: Any, row: Array) -> None:
        row[:] = categories == np.repeat(np.ravel(detached(value)), counts)

    return low, high, write if isinstance(space, spaces.Discrete) else write_several


def _column_of_numbers(field: str, role: str, key: str | None, *, n: int) -> Column:
    """One number of each transaction; where it is in a mapping, 0 if that lacks the key."""
    unbounded = np.full(1, np.inf, np.float32)

    def write(value: Any, row: Array) -> None:
        number = value if key is None else value.get(key)
        if not isinstance(number, (float, int)):
            number = 0.0 if number is None else np.asarray(detached(number), np.float64).item()
        row[0] = number

    return Column(PREFIX + field, role, -unbounded, unbounded, write, n=n)
