"""Gymnasium spaces: which can be recorded, their layout, and their JSON form."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from jamboree_gym.arrays.layout import (
    ENCODED,
    Group,
    Kind,
    Layout,
    Leaf,
    has_column,
    is_column_name,
    number_dtype,
)
from jamboree_gym.arrays.unicode_text import is_unicode
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.errors import DecodeError, InvalidRecord, UnsupportedSpace

__all__ = ["AnyText", "check_space", "layout_of_space", "space_from_json", "space_to_json"]

_FIXED = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
_VARIABLE = (spaces.Text, spaces.Sequence, spaces.Graph, spaces.OneOf)
_RECORDABLE = (*_FIXED, *_VARIABLE, spaces.Dict, spaces.Tuple)
_ANY_TEXT_SAMPLE = 64  # longest sample, characters
_MAX_ELEMENTS = 2**27  # of a Box; a larger number means damage, and would take all memory
_DAMAGE = (
    *(AssertionError, AttributeError, LookupError, TypeError, ValueError),
    *(ArithmeticError, MemoryError, RecursionError),
)


def check_space(space: spaces.Space[Any], role: str) -> None:
    """Refuse a space that cannot be recorded.

    A subclass is recorded as its base. Every space of texts (MiniGrid has its own) becomes `Text`.

    Args:
        space: Observation or action space.
        role: `observation` or `action`, for the message.

    Raises:
        UnsupportedSpace: The space, or a space in it, is not one of Gymnasium's; names it.
    """
    if space is None:
        raise UnsupportedSpace(
            f"the environment has no {role} space, it is None: set env.{role}_space to a space of "
            "gymnasium.spaces before you record it"
        )
    if not (isinstance(space, _RECORDABLE) or _holds_texts(space)):
        raise UnsupportedSpace(
            f"the {role} space holds {space!r} of type {type(space).__name__}, which is none of "
            "Gymnasium's: derive it from the space that its values belong to"
        )
    for key in space.spaces if isinstance(space, spaces.Dict) else ():
        if isinstance(key, str) and not is_unicode(key):
            what = f"the {role} space has the key {key!r}"
            raise UnsupportedSpace(f"{what}, which is not valid unicode")
    for part in _parts(space):
        check_space(part, role)


def _holds_texts(space: spaces.Space[Any]) -> bool:
    return space.dtype is not None and np.dtype(space.dtype).kind == "U"


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    if isinstance(space, (spaces.Tuple, spaces.OneOf)):
        return list(space.spaces)
    if isinstance(space, spaces.Sequence):
        return [space.feature_space]
    if isinstance(space, spaces.Graph):
        return [part for part in (space.node_space, space.edge_space) if part is not None]
    return []


def layout_of_space(space: spaces.Space[Any]) -> Layout:
    """Layout of what `space.sample()` returns: the best guess before the first value is known."""
    if isinstance(space, spaces.Dict):
        if not all(map(is_column_name, space.spaces)):
            return ENCODED
        parts = tuple(map(layout_of_space, space.spaces.values()))
        return Group("dict", tuple(space.spaces), parts)
    if isinstance(space, spaces.Tuple):
        parts = tuple(map(layout_of_space, space.spaces))
        return Group("tuple", tuple(range(len(parts))), parts)
    if not isinstance(space, _FIXED) or not has_column(np.dtype(space.dtype)):
        return ENCODED
    kind: Kind = "numpy" if isinstance(space, spaces.Discrete) else "array"
    return Leaf(np.dtype(space.dtype), tuple(space.shape or ()), kind)


# -- as JSON ----------------------------------------------------------------------------------


def space_to_json(space: spaces.Space[Any]) -> str:
    """A space as JSON, for readers of the store that do not have the environment."""
    return json.dumps(_content(space), sort_keys=True)


class AnyText(spaces.Text):
    """Replaces a space of texts that is not one of Gymnasium's; nothing else is known of it."""

    def __init__(self) -> None:
        super().__init__(_ANY_TEXT_SAMPLE, min_length=0)

    def contains(self, x: Any) -> bool:
        """Whether the value is a text."""
        return isinstance(x, str)

    def __repr__(self) -> str:
        """Name of the space."""
        return "AnyText()"


def _content(space: spaces.Space[Any]) -> dict[str, Any]:
    base = next((kind for kind in _RECORDABLE if isinstance(space, kind)), type(space))
    if isinstance(space, AnyText) or (base not in _RECORDABLE and _holds_texts(space)):
        return {"type": AnyText.__name__}
    content: dict[str, Any] = {"type": base.__name__}
    if isinstance(space, spaces.Dict):
        pairs = space.spaces.items()
        content["spaces"] = [[_key_content(key), _content(part)] for key, part in pairs]
    elif parts := _parts(space):
        content["spaces"] = [_content(part) for part in parts]
    for name in ("n", "start", "nvec", "shape", "min_length", "max_length"):
        value = getattr(space, name, None)
        if value is not None:
            content[name] = np.asarray(value).tolist()
    if isinstance(space, spaces.Box):
        content["low"] = _bounds_content(space.low, space.bounded_below, -math.inf)
        content["high"] = _bounds_content(space.high, space.bounded_above, math.inf)
    if isinstance(space, spaces.Text):
        content["characters"] = "".join(space.character_list)
    if isinstance(space, spaces.Sequence):
        content["stack"] = space.stack
    if space.dtype is not None and isinstance(space, _FIXED):
        content["dtype"] = np.dtype(space.dtype).str
    return content


def _key_content(key: Hashable) -> Any:
    if type(key) in (str, int):
        return key
    try:
        return {"encoded": encode_value(key).hex()}
    except InvalidRecord:
        return {"unrecorded": repr(key)}


def _bounds_content(
    bounds: npt.NDArray[Any], is_bounded: npt.NDArray[np.bool_], unbounded: float
) -> Any:
    """Bounds as lists, or as one number if all are equal. JSON has infinity only as text.

    An integer bound that does not exist is infinite here; Gymnasium uses the limit of the dtype.
    """
    if _is_uniform(bounds) and _is_uniform(is_bounded):
        bounds, is_bounded = bounds.flat[:1].reshape(()), is_bounded.flat[:1].reshape(())
    numbers = bounds.astype(object)
    numbers[~is_bounded] = unbounded
    return np.vectorize(_json_number, otypes=[object])(numbers).tolist()


def _is_uniform(values: npt.NDArray[Any]) -> bool:
    """Whether there are values, and all have the same bits."""
    return values.size > 0 and values.tobytes() == values.flat[:1].tobytes() * values.size


def _json_number(value: Any) -> Any:
    is_known = isinstance(value, (int, float)) and math.isfinite(value)
    return value if is_known else str(value)


def space_from_json(content: str | Mapping[str, Any]) -> spaces.Space[Any]:
    """Inverse of `space_to_json`; the space equals the one that was written, dtype and all.

    Args:
        content: The text, or the result of `json.loads`. A space of texts that is not one of
            Gymnasium's becomes one of any texts.

    Raises:
        DecodeError: The content is not a stored space.
    """
    try:
        return _space(json.loads(content) if isinstance(content, str) else content)
    except DecodeError:
        raise
    except _DAMAGE as error:
        raise DecodeError(f"not a space as it is stored: {error!r}") from error


def _space(content: Mapping[str, Any]) -> spaces.Space[Any]:
    kind, parts = content["type"], content.get("spaces", [])
    if kind == "Box":
        return _box(content)
    if kind == "Discrete":
        return spaces.Discrete(content["n"], start=content["start"], **_dtype_of_discrete(content))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(content["nvec"], _dtype(content), start=content["start"])
    if kind == "MultiBinary" and isinstance(content["n"], (int, list)):
        return spaces.MultiBinary(content["n"])
    if kind == "Text":
        lengths = {name: content[name] for name in ("min_length", "max_length")}
        return spaces.Text(**lengths, charset=content["characters"])
    if kind == AnyText.__name__:
        return AnyText()
    if kind == "Dict":
        pairs: Any = [(_key(key), _space(part)) for key, part in parts]
        return spaces.Dict(pairs)
    if kind == "Sequence":
        return spaces.Sequence(_space(parts[0]), stack=content["stack"])
    if kind == "Graph":
        return spaces.Graph(_space(parts[0]), _space(parts[1]) if len(parts) > 1 else None)
    if kind in ("Tuple", "OneOf"):
        together = spaces.Tuple if kind == "Tuple" else spaces.OneOf
        return together(map(_space, parts))
    raise DecodeError(f"not a space as it is stored: its type is {kind!r}")


def _box(content: Mapping[str, Any]) -> spaces.Space[Any]:
    dtype = _dtype(content)
    shape = tuple(content["shape"])
    if math.prod(shape) > _MAX_ELEMENTS:
        raise DecodeError(f"not a space as it is stored: a Box of shape {shape}")
    low, is_bounded_below = _bounds(content["low"], shape, dtype)
    high, is_bounded_above = _bounds(content["high"], shape, dtype)
    box = spaces.Box(low, high, shape, dtype)
    if dtype.kind == "i":
        box.bounded_below, box.bounded_above = is_bounded_below, is_bounded_above
    return box


def _bounds(
    content: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Inverse of `_bounds_content`: the bounds, and where there are bounds."""
    numbers = np.array(content, object)
    if not math.prod(shape):
        numbers = numbers.reshape(shape)
    if numbers.shape not in ((), shape):
        raise ValueError(f"bounds of shape {numbers.shape} for a Box of {shape}")
    if numbers.size:
        numbers = np.vectorize(_number_of_json, otypes=[object])(numbers)
    is_bounded = np.isfinite(numbers.astype(np.float64))
    if dtype.kind in "bu" and not is_bounded.all():
        raise ValueError(f"a Box of {dtype} always has bounds")
    if dtype.kind == "i":
        ends = np.iinfo(dtype)
        numbers = np.where(is_bounded, numbers, np.where(numbers < 0, ends.min, ends.max))
    with np.errstate(over="raise", invalid="raise"):  # a stored bound always fits its dtype
        bounds = np.broadcast_to(numbers.astype(dtype), shape)
    return bounds.copy(), np.broadcast_to(is_bounded, shape).copy()


def _number_of_json(value: Any) -> Any:
    return np.longdouble(value) if isinstance(value, str) else value


def _key(content: Any) -> Hashable:
    if not isinstance(content, Mapping):
        return content  # type: ignore[no-any-return]
    if "unrecorded" in content:
        raise DecodeError(f"the key {content['unrecorded']} of a Dict space could not be stored")
    key: Hashable = decode_value(bytes.fromhex(content["encoded"]), where="key of a Dict space")
    return key


def _dtype(content: Mapping[str, Any]) -> np.dtype[Any]:
    return number_dtype(content["dtype"])


def _dtype_of_discrete(content: Mapping[str, Any]) -> dict[str, Any]:
    """The dtype argument of a Discrete, which older releases of Gymnasium lack (always int64)."""
    dtype = _dtype(content)
    return {} if dtype == np.int64 else {"dtype": dtype}
