"""Values that are kept as their kind and a content, which is made of other values.

`kind_of` says what is written; `build` makes the value again. What cannot be made here becomes a
stand-in. Nothing that a content names is imported or called.
"""

from __future__ import annotations

import array
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import numpy as np

from jamboree_gym.arrays.kinds.classes import (
    build_dataclass,
    build_enum,
    build_flag,
    build_named_tuple,
    dataclass_content,
    enum_content,
    is_dataclass_value,
    is_named_tuple,
    named_tuple_content,
)
from jamboree_gym.arrays.kinds.pandas_values import PANDAS, pandas_content
from jamboree_gym.arrays.kinds.registered import build_registered, registered_content
from jamboree_gym.arrays.kinds.stand_ins import StandIn, stand_in
from jamboree_gym.arrays.kinds.tensor_values import build_tensor, tensor_content

__all__ = ["Kind", "build", "kind_of"]

Kind = tuple[str, Any]
"""The name of a kind, and the content."""

_FACTORIES: Final = {
    cls.__name__: cls for cls in (bool, int, float, complex, str, bytes, list, tuple, dict, set)
}
_NUMBERS_OF_ARRAYS: Final = "bBhHiIlLqQfd"
_CONTAINERS = (dict, list, tuple, set, frozenset)


def kind_of(value: Any) -> Kind | None:
    """Kind and content of a value; None if it has none.

    Raises:
        InvalidRecord: It has one, but cannot be kept; says why.
    """
    if isinstance(value, StandIn):
        return value.kind, value.content
    registered = registered_content(value)
    if registered is not None:
        return "registered", registered
    if isinstance(value, Enum):
        return enum_content(value)
    content_of = _CONTENTS.get(type(value))
    if content_of is not None:
        return content_of(value)
    if _is_masked(value):
        return _masked_content(value)
    if isinstance(value, tuple) and is_named_tuple(value):
        return "named tuple", named_tuple_content(value)
    if isinstance(value, _CONTAINERS):
        return None
    if is_dataclass_value(value):
        return "dataclass", dataclass_content(value)
    return pandas_content(value) or tensor_content(value)


def build(kind: str, content: Any) -> Any:
    """The value of this kind and content; a stand-in where it cannot be made here.

    Raises:
        Exception: Of any class: the content is damaged.
    """
    made_by = _BUILDERS.get(kind)
    return (
        stand_in(kind, content, "a kind of a newer release")
        if made_by is None
        else made_by(content)
    )


def _defaultdict_content(value: defaultdict[Any, Any]) -> Kind | None:
    factory = value.default_factory
    name = getattr(factory, "__name__", "")
    if factory is not None and _FACTORIES.get(name) is not factory:
        return None  # the plain dict is equal
    return "defaultdict", [None if factory is None else name, dict(value)]


def _build_defaultdict(content: Any) -> Any:
    name, items = content
    return defaultdict(None if name is None else _FACTORIES[name], items)


def _array_content(value: array.array[Any]) -> Kind | None:
    if value.typecode not in _NUMBERS_OF_ARRAYS:
        return "array.array", [value.typecode, value.tolist()]
    return "array.array", [value.typecode, np.array(value)]


def _build_array(content: Any) -> Any:
    code, items = content
    return array.array(code, items.tolist() if isinstance(items, np.ndarray) else items)


def _is_masked(value: Any) -> bool:
    """Whether it is a masked array; without `numpy.ma`, which takes a while to load, none is."""
    loaded = sys.modules.get("numpy.ma")
    return loaded is not None and type(value) is loaded.MaskedArray


def _masked_content(value: Any) -> Kind:
    mask = None if value.mask is np.ma.nomask else np.asarray(value.mask)
    fill = None if value._fill_value is None else np.asarray(value._fill_value)
    return "masked array", [np.asarray(value.data), mask, fill, bool(value.hardmask)]


def _build_masked(content: Any) -> Any:
    data, mask, fill, is_hard = content
    mask = np.ma.nomask if mask is None else mask
    made = np.ma.MaskedArray(data, mask=mask, hard_mask=is_hard)
    if fill is not None:
        made.set_fill_value(fill[()])
    return made


def _view_content(name: str) -> Callable[[Any], Kind]:
    return lambda value: (name, np.asarray(value).view(np.ndarray))


_CONTENTS: Final[dict[type, Callable[[Any], Kind | None]]] = {
    bytearray: lambda value: ("bytearray", bytes(value)),
    range: lambda value: ("range", [value.start, value.stop, value.step]),
    slice: lambda value: ("slice", [value.start, value.stop, value.step]),
    deque: lambda value: ("deque", [list(value), value.maxlen]),
    OrderedDict: lambda value: ("OrderedDict", [list(pair) for pair in value.items()]),
    Counter: lambda value: ("Counter", dict(value)),
    defaultdict: _defaultdict_content,
    types.SimpleNamespace: lambda value: ("namespace", dict(vars(value))),
    array.array: _array_content,
    np.recarray: _view_content("recarray"),
    np.matrix: _view_content("matrix"),
}


def _build_range(content: Any) -> Any:
    start, stop, step = content
    return range(start, stop, step)


def _build_deque(content: Any) -> Any:
    items, most = content
    return deque(items, most)


_BUILDERS: Final[dict[str, Callable[[Any], Any]]] = {
    "array.array": _build_array,
    "bytearray": bytearray,
    "Counter": Counter,
    "dataclass": build_dataclass,
    "defaultdict": _build_defaultdict,
    "deque": _build_deque,
    "enum": build_enum,
    "flag": build_flag,
    "masked array": _build_masked,
    "matrix": lambda content: content.view(np.matrix),
    "named tuple": build_named_tuple,
    "namespace": lambda content: types.SimpleNamespace(**content),
    "OrderedDict": OrderedDict,
    "range": _build_range,
    "recarray": lambda content: content.view(np.recarray),
    "reference": lambda content: stand_in("reference", content),
    "registered": build_registered,
    "space": lambda content: stand_in("space", content),
    "slice": lambda content: slice(*content),
    "tensor": build_tensor,
    **PANDAS,
}
