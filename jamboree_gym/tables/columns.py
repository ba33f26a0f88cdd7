"""Converts transitions into the columns of a table, and into a vaex DataFrame."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.arrays.step_columns import are_empty
from jamboree_gym.arrays.tensors import is_tensor, tensor_array
from jamboree_gym.arrays.trees import Arrays, leaves_of, path_shown
from jamboree_gym.encoding.info_codec import holds_unrecorded
from jamboree_gym.errors import MissingExtra
from jamboree_gym.records import Transitions

if TYPE_CHECKING:
    import vaex.dataframe

__all__ = [
    "Column",
    "number_columns",
    "scalar_columns",
    "table_to_frame",
    "to_columns",
    "to_columns_or_none",
    "to_frame",
]

MAX_COLUMNS = 64
_NUMBERS = (bool, int, float, np.bool_, np.number)
_INTEGERS = (int, np.integer)
_PLAIN = frozenset({type(None), bool, int, float, str})
_NO_SCALAR = object()

Column: TypeAlias = "npt.NDArray[Any] | pa.Array"
"""An Arrow array only if values are missing, or for texts."""


def to_frame(steps: Transitions) -> vaex.dataframe.DataFrame:
    """Convert transitions into a vaex DataFrame with the columns of `to_columns`, in their order.

    Raises:
        MissingExtra: vaex is not installed (it has no build for this Python).
    """
    return _vaex().from_arrays(**to_columns(steps))


def table_to_frame(table: pa.Table) -> vaex.dataframe.DataFrame:
    """Convert a table with one chunk per column into a vaex DataFrame.

    Raises:
        MissingExtra: vaex is not installed (it has no build for this Python).
    """
    return _vaex().from_arrays(**{name: _in_memory(table[name]) for name in table.column_names})


def _vaex() -> Any:
    try:
        import vaex
    except ImportError as error:
        raise MissingExtra(
            "a frame needs vaex, which has no build for Python 3.13 yet: use Python 3.11 or 3.12 "
            "and pip install vaex-core; .steps(), .data() and .table() go without it"
        ) from error
    return vaex


def _in_memory(column: pa.ChunkedArray) -> Column:
    """Numbers as a NumPy array, which vaex reads fastest; an Arrow array if values are missing."""
    array, shape = column.combine_chunks(), [len(column)]
    if isinstance(array, pa.ChunkedArray):  # older releases of pyarrow return it
        array = array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks)
    if array.null_count or pa.types.is_string(array.type):
        return array
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def to_columns(steps: Transitions) -> dict[str, Column]:
    """Columns by name; each has one value per transition."""
    columns = to_columns_or_none(steps)
    return {name: column for name, column in columns.items() if column is not None}


def to_columns_or_none(steps: Transitions) -> dict[str, Column | None]:
    """As `to_columns`, with None for values that no column can hold."""
    numbers = number_columns(steps)
    if steps.rewards.ndim > 1:
        del numbers["reward"]
        numbers |= _array_columns("reward", steps.rewards)
    return {
        **numbers,
        **_tree_columns("action", steps.actions),
        **_tree_columns("observation", steps.observations),
        **_annotation_columns(steps),
        **scalar_columns("info", steps.infos),
    }


def number_columns(steps: Transitions) -> dict[str, Column | None]:
    """The columns that all transitions have; one number in each row, or an array for a reward."""
    return {
        "index": steps.indices,
        "timestamp": steps.timestamps,
        "reward": steps.rewards,
        "terminated": steps.terminations,
        "truncated": steps.truncations,
    }


def _tree_columns(name: str, arrays: Arrays) -> dict[str, Column | None]:
    """Columns of every part; the name of a part is appended to that of the whole.

    Parts of which two columns would have one name are named as in Python: `observation["a"]_0`.
    """
    leaves = list(leaves_of(arrays, name))
    parts = [_leaf_columns("_".join(map(str, path)), values) for path, values in leaves]
    found = {name: column for part in parts for name, column in part.items()}
    if len(found) == sum(map(len, parts)):
        return found
    names = Counter(name for part in parts for name in part)
    for (path, values), part in zip(leaves, parts, strict=True):
        if any(names[name] > 1 for name in part):  # the keys a, 0 and a_0, for example
            found = {name: column for name, column in found.items() if name not in part}
            found |= _leaf_columns(path_shown(path), values)
    return found


def _leaf_columns(name: str, values: npt.NDArray[Any]) -> dict[str, Column | None]:
    columns = _object_column if values.dtype == object else _array_columns
    return columns(name, values)


def _object_column(name: str, values: npt.NDArray[Any]) -> dict[str, Column | None]:
    """One column of texts; None for other values without a fixed shape."""
    if all(isinstance(value, str) for value in values):
        return {name: pa.array([str(value) for value in values], pa.string())}
    return {name: None}


def _array_columns(name: str, values: npt.NDArray[Any]) -> dict[str, Column | None]:
    """One column for every element, unless there are too many elements."""
    size = math.prod(values.shape[1:])
    if values.ndim == 1 or size > MAX_COLUMNS:
        return {name: values}
    flat = values.reshape(len(values), size)
    return {f"{name}_{i}": np.ascontiguousarray(flat[:, i]) for i in range(flat.shape[1])}


def _annotation_columns(steps: Transitions) -> dict[str, Column | None]:
    """Columns of annotations; null at steps without an annotation."""
    columns = _tree_columns("annotation", dict(steps.annotations))
    unsaid = ~steps.annotated
    if not unsaid.any():
        return columns
    return {
        name: pa.array(column, mask=unsaid)
        if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "biu"
        else column
        for name, column in columns.items()
    }


# -- infos and tags -------------------------------------------------------------------------


def scalar_columns(prefix: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Column | None]:
    """One column for every key, also of nested dicts, whose values are all numbers or all texts.

    None for a key whose values no column can hold. A key without any value is left out.
    """
    if are_empty(rows):
        return {}
    flat = [_flattened(row) for row in rows]
    names = dict.fromkeys(name for row in flat for name, value in row.items() if value is not None)
    return {f"{prefix}_{name}": _scalar_column([row.get(name) for row in flat]) for name in names}


def _flattened(info: Mapping[Any, Any]) -> dict[str, Any]:
    """Values by dotted name. A name that occurs twice, or that names a dict, has no value."""
    flat: dict[str, Any] = {}
    for key, value in info.items():
        found = {str(key): value}
        if isinstance(value, dict):
            found = {f"{key}.{name}": item for name, item in _flattened(value).items()}
            found[str(key)] = _NO_SCALAR
        for name, item in found.items():
            flat[name] = _NO_SCALAR if name in flat else item
    return flat


def _scalar_column(values: Sequence[Any]) -> Column | None:
    """The values as a column, with None for missing ones; None if no column holds them exactly."""
    values = list(map(_number_of, values))
    present = [value for value in values if value is not None]
    if not present:
        return None
    if all(isinstance(value, str) for value in present):
        if any(map(holds_unrecorded, present)):
            return None
        texts = [None if value is None else str.__str__(value) for value in values]
        return pa.array(texts, pa.string())
    if not all(isinstance(value, _NUMBERS) for value in present):
        return None
    numbers = _as_numbers(present)
    if numbers is None or len(present) == len(values):
        return numbers
    missing = np.array([value is None for value in values])
    filled = np.zeros(len(values), numbers.dtype)
    filled[~missing] = numbers
    return pa.array(filled, mask=missing)


def _number_of(value: Any) -> Any:
    """The number in an array or tensor without a shape; any other value as it is."""
    if value.__class__ in _PLAIN:
        return value
    array = tensor_array(value) if is_tensor(value) else value
    return array[()] if isinstance(array, np.ndarray) and array.ndim == 0 else value


def _as_numbers(present: Sequence[Any]) -> npt.NDArray[Any] | None:
    numbers = np.array(present)
    if numbers.dtype.kind not in "biuf" or numbers.dtype.itemsize > 8:
        return None
    if numbers.dtype.kind == "f":
        integers = [i for i, value in enumerate(present) if isinstance(value, _INTEGERS)]
        if any(int(numbers[i]) != present[i] for i in integers):
            return None
    return numbers.astype(np.float32) if numbers.dtype == np.float16 else numbers
