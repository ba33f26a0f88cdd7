"""Where two values differ first: the very number, named as one would write it in Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.kinds.plain_forms import plain_form
from jamboree_gym.arrays.layout import as_array
from jamboree_gym.arrays.tensors import is_tensor, tensor_array
from jamboree_gym.arrays.trees import Arrays, leaves_of, map_leaves
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.errors import InvalidRecord
from jamboree_gym.wording import shortened

__all__ = [
    "EXACT",
    "NOTHING",
    "Difference",
    "Said",
    "UNTYPED",
    "Tolerance",
    "differences",
    "earliest",
    "first_row",
    "quoted",
    "shown",
]

MAX_SHOWN = 200
_PLAIN_FORMS = frozenset(
    {
        int,
        float,
        str,
        bytes,
        tuple,
        list,
        dict,
        np.ndarray,
        datetime,
        timedelta,
        np.datetime64,
        np.timedelta64,
    }
)
_NO_NAME = re.compile(r"\W")


class Said(str):
    """What is said of a value that is not there, or that could not be compared: no value itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Without quotes."""
        return str(self)


NOTHING = Said("nothing")


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """A place where two values differ.

    Attributes:
        leaf: The very value: `observation["image"][3, 2, 0]`, `info["lives"]`; like `field` where
            that is one value.
        a: What the one has there. Where the two are not of one shape or type, what is said of
            them, as text.
        b: What the other has there.
        others: How many more values differ: of this array, or of this step.
        step: The step; -1 for the reset.
    """

    leaf: str
    a: Any
    b: Any
    others: int = 0
    step: int = -1

    @property
    def field(self) -> str:
        """What the place is part of: `action`, `observation`, `reward`, `info`, `length`, ..."""
        return _NO_NAME.split(self.leaf, maxsplit=1)[0]

    @property
    def place(self) -> str:
        """The leaf, and at which step."""
        return f"{self.leaf} {'at reset' if self.step < 0 else f'at step {self.step}'}"

    @classmethod
    def first_of(cls, found: Sequence[Difference], *, step: int) -> Self:
        """The first of all differences at a step, which are at least one."""
        others = len(found) - 1 + sum(one.others for one in found)
        return cls(found[0].leaf, found[0].a, found[0].b, others, step)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two floats may be, as in `numpy.isclose`; NaN equals NaN.

    Attributes:
        rtol: As a share of the recorded one.
        atol: Absolutely. With both at 0 every bit counts.
        is_typed: Whether a Python number differs from a NumPy number that has the same bits.
    """

    rtol: float = 0.0
    atol: float = 0.0
    is_typed: bool = True

    @property
    def is_exact(self) -> bool:
        """Whether every bit counts."""
        return self.rtol == 0 and self.atol == 0

    def differing(self, recorded: npt.NDArray[Any], simulated: npt.NDArray[Any]) -> Any:
        """Which elements differ, of two arrays with the same dtype and shape."""
        if self.is_exact or recorded.dtype.kind not in "fc":
            return (_bytes_of(recorded) != _bytes_of(simulated)).any(axis=-1)
        with np.errstate(all="ignore"):
            return ~np.isclose(simulated, recorded, self.rtol, self.atol, equal_nan=True)

    def allows(self, recorded: Any, simulated: Any) -> bool:
        """Whether two values that hold no others count as equal."""
        is_float = isinstance(recorded, (float, np.floating)) and not self.is_exact
        if is_float and recorded.__class__ is simulated.__class__:
            return not self.differing(np.asarray(recorded), np.asarray(simulated))
        if not self.is_typed:
            arrays = as_array(recorded), as_array(simulated)
            if all(array is not None for array in arrays):
                return _bits_of(arrays[0]) == _bits_of(arrays[1])
        if isinstance(recorded, (set, frozenset)):  # equal ones may be in another order
            return bool(recorded == simulated)
        try:
            return encode_value(recorded) == encode_value(simulated)
        except InvalidRecord:  # the simulated one could not have been recorded
            return False

    def __str__(self) -> str:
        """As it was given."""
        return f"rtol={self.rtol:g}, atol={self.atol:g}"


EXACT = Tolerance()
UNTYPED = Tolerance(is_typed=False)


def _bits_of(array: Any) -> tuple[Any, ...]:
    return array.dtype, array.shape, array.tobytes()


def _bytes_of(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of each element, along one axis more."""
    if array.itemsize == 0:
        return np.zeros((*array.shape, 1), np.uint8)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return flat.reshape((*array.shape, array.itemsize))


def differences(
    place: str, recorded: Any, simulated: Any, tolerance: Tolerance = EXACT
) -> Iterator[Difference]:
    """Where two values differ, in the order of the recorded one, which comes from the store.

    `place` is what the values are called; `simulated` is as the environment has returned it.
    """
    simulated = _as_older_releases_kept(simulated, recorded)
    if is_tensor(recorded) and type(recorded) is type(simulated):
        recorded, simulated = map(_numbers_of, (recorded, simulated))
    if isinstance(recorded, Mapping) and isinstance(simulated, Mapping):
        for key in (*recorded, *(key for key in simulated if key not in recorded)):
            parts = recorded.get(key, NOTHING), simulated.get(key, NOTHING)
            yield from differences(f"{place}[{quoted(key)}]", *parts, tolerance)
    elif _are_sequences(recorded, simulated):
        names = getattr(recorded, "_fields", ())
        pairs = zip_longest(recorded, simulated, fillvalue=NOTHING)
        for position, parts in enumerate(pairs):
            is_named = position < len(names)
            where = f"{place}.{names[position]}" if is_named else f"{place}[{position}]"
            yield from differences(where, *parts, tolerance)
    elif isinstance(recorded, np.ndarray):
        yield from _array_differences(place, recorded, simulated, tolerance)
    elif not tolerance.allows(recorded, simulated):
        yield Difference(place, recorded, _storable(simulated))


def _as_older_releases_kept(simulated: Any, recorded: Any) -> Any:
    """The simulated value in the plain form in which releases without kinds have recorded it."""
    cls = recorded.__class__
    if cls is simulated.__class__ or cls not in _PLAIN_FORMS:
        return simulated
    try:
        form = plain_form(simulated)
    except Exception:  # noqa: BLE001 - code of others may raise anything
        return simulated
    return form if form.__class__ is cls else simulated


def _numbers_of(tensor: Any) -> Any:
    array = tensor_array(tensor)
    return tensor if array is None else array


def _are_sequences(recorded: Any, simulated: Any) -> bool:
    if getattr(recorded, "_fields", ()) != getattr(simulated, "_fields", ()):
        return False
    return any(isinstance(recorded, kind) and isinstance(simulated, kind) for kind in (list, tuple))


def _array_differences(
    place: str, recorded: npt.NDArray[Any], simulated: Any, tolerance: Tolerance
) -> Iterator[Difference]:
    array = as_array(simulated) if not isinstance(simulated, np.ndarray) else simulated
    if array is None or (array.dtype, array.shape) != (recorded.dtype, recorded.shape):
        now = _storable(simulated) if array is None else _kind_of(array)
        yield Difference(place, _kind_of(recorded), now)
        return
    if recorded.dtype.kind == "O":
        pairs = zip(recorded.tolist(), array.tolist(), strict=True)
        for position, parts in enumerate(pairs):
            yield from differences(f"{place}[{position}]", *parts, tolerance)
        return
    differing = np.asarray(tolerance.differing(recorded, array))
    if differing.any():
        index = tuple(map(int, np.unravel_index(differing.argmax(), differing.shape)))
        where = f"{place}[{', '.join(map(str, index))}]" if index else place
        yield Difference(where, recorded[index], array[index], int(differing.sum()) - 1)


def first_row(
    a: Arrays,
    b: Arrays,
    tolerance: Tolerance = EXACT,
    values: Callable[[int], tuple[Any, Any]] | None = None,
) -> int | None:
    """The first row in which two differ; quick where both are arrays of numbers of one kind.

    `values` gives both values of a row as they were; None: as they are in the arrays.
    """
    arrays = [[array for _, array in leaves_of(tree)] for tree in (a, b)]
    if _are_alike(a, b):
        pairs = zip(*arrays, strict=True)
        return earliest(_first_row(one, other, tolerance) for one, other in pairs)
    values = values or (lambda row: (a[row], b[row]))
    count = min((len(array) for array in chain(*arrays)), default=0)
    rows = (row for row in range(count) if any(differences("", *values(row), tolerance)))
    return next(rows, None)


def earliest(rows: Iterable[int | None]) -> int | None:
    """The lowest row, if there is any."""
    return min((row for row in rows if row is not None), default=None)


def _are_alike(a: Arrays, b: Arrays) -> bool:
    """Whether the elements of both can be compared one by one."""
    kinds = [map_leaves(lambda array: (array.dtype, array.shape), arrays) for arrays in (a, b)]
    return kinds[0] == kinds[1] and all(array.dtype != object for _, array in leaves_of(a))


def _first_row(a: npt.NDArray[Any], b: npt.NDArray[Any], tolerance: Tolerance) -> int | None:
    if a.tobytes() == b.tobytes():
        return None
    rows = np.asarray(tolerance.differing(a, b)).reshape(len(a), -1).any(axis=1)
    return int(rows.argmax()) if rows.any() else None


def _kind_of(array: npt.NDArray[Any]) -> Said:
    return Said(f"{array.dtype} of shape {array.shape}")


def quoted(key: Any) -> str:
    """A key as it stands between brackets."""
    is_plain = isinstance(key, str) and key.isprintable() and not {'"', "\\"} & set(key)
    return f'"{key}"' if is_plain else repr(key)


def _storable(value: Any) -> Any:
    """The value, or what is said of it where it is none that could be stored."""
    if isinstance(value, Said):
        return value
    try:
        encode_value(value)
    except InvalidRecord:
        return Said(shortened(repr(value), MAX_SHOWN))
    return value


def shown(value: Any) -> str:
    """In few words; a number of NumPy as the number that it is."""
    if isinstance(value, np.generic) and value.dtype.kind in "biufc":
        return str(value)
    return shortened(repr(value), MAX_SHOWN)
