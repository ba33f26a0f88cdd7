"""Values of a layout -> what rows keep of them, and back.

Packing runs inside `env.step`, so it copies and checks, nothing more: an array becomes its bytes, a
scalar stays itself, what has no fixed shape is encoded, and a group becomes a tuple of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import Encoded, Group, Layout, Leaf, as_array
from jamboree_gym.arrays.marks import encode_marked
from jamboree_gym.arrays.trees import Arrays, map_leaves
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.compiled import compiled_core
from jamboree_gym.errors import InvalidRecord

__all__ = [
    "Arrays",
    "LayoutAt",
    "Misfit",
    "Pack",
    "RowChoice",
    "as_objects",
    "concatenate",
    "filler",
    "grouped",
    "held_exactly",
    "item",
    "join_arrays",
    "pack_any",
    "packed_columns",
    "packer",
    "rows_of",
    "stack",
    "unsaid",
    "unstack",
    "variable_bytes",
]

RowChoice: TypeAlias = slice | npt.NDArray[np.int64]
"""Some of n rows: a slice, or their numbers."""

Pack: TypeAlias = Callable[[Any], Any]

_core = compiled_core()
_ndarray = np.ndarray
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class Misfit(Exception):
    """The value does not have the layout that the packer is for."""


@lru_cache(maxsize=256)
def packer(layout: Layout) -> Pack:
    """A function that packs values of exactly this layout, and raises `Misfit` for others.

    An encoded part that cannot be encoded raises `InvalidRecord`.
    """
    if isinstance(layout, Encoded):
        return encode_marked
    if isinstance(layout, Group):
        return _group_packer(layout)
    kind = layout.value_class
    if _core is not None:
        packed: Pack = _core.Packer(kind, layout.dtype, layout.shape, Misfit)
        return packed
    if layout.is_array:
        return _array_packer(layout.dtype, layout.shape)
    return _pack_int if kind is int else _scalar_packer(kind)


def _array_packer(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Pack:
    def pack(value: Any) -> bytes:
        if (
            value.__class__ is _ndarray
            and value.shape == shape
            and (value.dtype is dtype or value.dtype == dtype)
        ):
            return value.tobytes()
        raise Misfit

    return pack


def _scalar_packer(kind: type) -> Pack:
    def pack(value: Any) -> Any:
        if value.__class__ is kind:
            return value
        raise Misfit

    return pack


def _pack_int(value: Any) -> Any:
    if value.__class__ is int and _INT64_MIN <= value <= _INT64_MAX:
        return value
    raise Misfit


def _group_packer(layout: Group) -> Pack:
    size = len(layout.parts)
    plan = [_plan_of(name, part) for name, part in zip(layout.names, layout.parts, strict=True)]
    kind = {"dict": dict, "tuple": tuple, "list": list}[layout.kind]

    def pack_group(value: Any) -> Any:
        if (value.__class__ is not kind and not _is_dict(value, kind)) or len(value) != size:
            raise Misfit
        packed: list[Any] = []
        try:
            for name, part_kind, dtype, shape, pack in plan:
                part = value[name]
                if pack is not None:
                    part = pack(part)
                elif part.__class__ is not part_kind:
                    raise Misfit
                elif dtype is not None:
                    if part.shape != shape or (part.dtype is not dtype and part.dtype != dtype):
                        raise Misfit
                    part = part.tobytes()
                packed.append(part)
        except KeyError as error:
            raise Misfit from error
        return tuple(packed)

    return pack_group


def _is_dict(value: Any, kind: type) -> bool:
    """Whether it may stand for a plain dict; other containers have to be of the very class."""
    return kind is dict and isinstance(value, dict)


_Plan: TypeAlias = tuple[Any, Any, np.dtype[Any] | None, tuple[int, ...] | None, Pack | None]


def _plan_of(name: str | int, layout: Layout) -> _Plan:
    """How a group packs a part: its class, an array's dtype and shape; or what packs it."""
    if isinstance(layout, Leaf):
        kind = layout.value_class
        if layout.is_array:
            return name, kind, layout.dtype, layout.shape, None
        if kind is not int:
            return name, kind, None, None, None
    return name, object, None, None, packer(layout)


def pack_any(value: Any, layout: Layout, role: str) -> Any:
    """Pack a value of this layout that may need converting first: a list, an `IntEnum`, ...

    Raises:
        InvalidRecord: A part of it cannot be encoded; names the role and the part.
    """
    try:
        return packer(layout)(_converted(value, layout))
    except InvalidRecord as error:
        raise InvalidRecord(f"the {role} cannot be recorded: {error}") from error


def _converted(value: Any, layout: Layout) -> Any:
    if isinstance(layout, Group):
        return layout.build(map(_converted, layout.items(value), layout.parts))
    if isinstance(layout, Encoded):
        return value
    if layout.is_array:
        return as_array(value)
    scalar = layout.dtype.type(value)
    return scalar if layout.kind == "numpy" else scalar.item()


def filler(layout: Layout) -> Any:
    """What a row keeps where it has no value."""
    if isinstance(layout, Encoded):
        return encode_value(None)
    if isinstance(layout, Group):
        return tuple(map(filler, layout.parts))
    return bytes(layout.nbytes) if layout.is_array else layout.restore(0)


def variable_bytes(packed: Any, layout: Layout) -> int:
    """Bytes of the encoded parts of a packed value."""
    if isinstance(layout, Encoded):
        return len(packed)
    if isinstance(layout, Group):
        return sum(map(variable_bytes, packed, layout.parts))
    return 0


# -- many values ------------------------------------------------------------------------------


def packed_columns(values: Sequence[Any], layout: Layout) -> list[Sequence[Any]]:
    """Packed values of many rows -> the same, column by column."""
    if not isinstance(layout, Group):
        return [values]
    parts = zip(*values, strict=True) if values else ((),) * len(layout.parts)
    pairs = zip(parts, layout.parts, strict=True)
    return [column for part, of in pairs for column in packed_columns(part, of)]


def stack(values: Sequence[Any], layout: Layout) -> Arrays:
    """Packed values of many rows -> arrays."""
    if isinstance(layout, Group):
        columns = zip(*values, strict=True) if values else ((),) * len(layout.parts)
        return layout.build(map(stack, columns, layout.parts))
    if isinstance(layout, Encoded):
        return as_objects([decode_value(value, where="memory") for value in values])
    return layout.stack(values)


def grouped(columns: Iterator[npt.NDArray[Any]], layout: Layout) -> Arrays:
    """The next columns, one for each leaf, as the arrays of a layout."""
    if isinstance(layout, Group):
        return layout.build([grouped(columns, part) for part in layout.parts])
    return next(columns)


def unstack(arrays: Arrays, layout: Layout, count: int) -> list[Any]:
    """Inverse of `stack`: arrays of that many rows -> packed values, one for each row.

    Values may be in an array of objects, too, with None where there is nothing.

    Raises:
        InvalidRecord: They are not of this layout; says what they are.
    """
    is_objects = isinstance(arrays, _ndarray) and arrays.dtype == object
    if is_objects and not isinstance(layout, Encoded):
        return [filler(layout) if one is None else pack_any(one, layout, "row") for one in arrays]
    if isinstance(layout, Group):
        pairs = zip(layout.items(arrays), layout.parts, strict=True)
        columns = [unstack(part, of, count) for part, of in pairs]
        return list(zip(*columns, strict=True)) if columns else [()] * count
    if isinstance(layout, Encoded):
        return [encode_marked(value) for value in arrays]
    values = np.asarray(arrays)
    if values.shape[1:] != layout.shape or values.dtype.kind not in "biuf":
        what = f"rows of {values.dtype} {values.shape[1:]}"
        raise InvalidRecord(f"{what} where the layout has {layout.dtype} {layout.shape}")
    values = values.astype(layout.dtype, copy=False)
    if layout.is_array:
        return [row.tobytes() for row in values]
    return list(values) if layout.kind == "numpy" else values.tolist()


def as_objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    """Values of whatever kind in an array of objects."""
    objects = np.empty(len(values), object)
    for position, value in enumerate(values):
        objects[position] = value
    return objects


def rows_of(arrays: Arrays, rows: RowChoice) -> Arrays:
    """Some rows of all arrays."""
    if not isinstance(arrays, _ndarray):
        return map_leaves(lambda array: rows_of(array, rows), arrays)
    if isinstance(rows, slice):
        return arrays[rows]
    return arrays.take(rows, axis=0)  # a tenth of the time of arrays[rows]


def item(arrays: Arrays, position: int, layout: Layout) -> Any:
    """One value, of the type that it had."""
    if isinstance(layout, Group) and not isinstance(arrays, _ndarray):
        pairs = zip(layout.items(arrays), layout.parts, strict=True)
        return layout.build(item(part, position, of) for part, of in pairs)
    value = arrays[position]
    return layout.restore(value) if isinstance(layout, Leaf) else value


def unsaid(arrays: Arrays, rows: Any = slice(None)) -> Arrays:
    """The same without the numbers that fill these rows: NaN, where the dtype has it."""

    def cleaned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if array.dtype.kind == "f":
            array = array.copy()
            array[rows] = np.nan
        return array

    return map_leaves(cleaned, arrays)


LayoutAt: TypeAlias = Callable[[int], Layout]
"""Layout of a row, counted from the first. Those of one part share their columns."""


def concatenate(parts: Sequence[tuple[Arrays, LayoutAt, int]]) -> Arrays:
    """Join arrays along the first axis. If they differ too much, join them as objects.

    They differ too much if no one structure or dtype holds both. Each part has the layouts of its
    rows.
    """
    layouts = [layout_at(0) for _, layout_at, _ in parts]
    first = layouts[0]
    if all(isinstance(layout, Leaf) for layout in layouts):
        return join_arrays([arrays for arrays, _, _ in parts])
    if isinstance(first, Group) and all(
        _is_alike(first, layout) and not isinstance(arrays, _ndarray)  # joined as objects before
        for layout, (arrays, _, _) in zip(layouts, parts, strict=True)
    ):
        return first.build(
            concatenate([(first.items(arrays)[i], _part(at, i), n) for arrays, at, n in parts])
            for i in range(len(first.parts))
        )
    return as_objects([item(arrays, i, at(i)) for arrays, at, n in parts for i in range(n)])


def _is_alike(one: Group, other: Layout) -> bool:
    return isinstance(other, Group) and (one.kind, one.names) == (other.kind, other.names)


def _part(layout_at: LayoutAt, position: int) -> LayoutAt:
    return lambda row: cast(Group, layout_at(row)).parts[position]


def join_arrays(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Join along the first axis; where no dtype holds all of them exactly, as an object array."""
    first = parts[0]
    if all(part.shape[1:] == first.shape[1:] for part in parts):
        joined: npt.NDArray[Any] = np.concatenate(parts)
        if all(part.dtype == first.dtype for part in parts) or _holds_exactly(joined, parts):
            return joined
    return as_objects([value for part in parts for value in part])


def held_exactly(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """The array with this dtype, None if that cannot hold it exactly."""
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        held = array.astype(dtype)
        return held if held.astype(array.dtype).tobytes() == array.tobytes() else None


def _holds_exactly(joined: npt.NDArray[Any], parts: Sequence[npt.NDArray[Any]]) -> bool:
    ends = np.cumsum([len(part) for part in parts])
    with np.errstate(all="ignore"):
        return all(
            back.astype(part.dtype).tobytes() == part.tobytes()
            for back, part in zip(np.split(joined, ends[:-1]), parts, strict=True)
        )
