"""What Gymnasium spaces say of the values in them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from jamboree_gym.errors import UnsupportedSpace
from jamboree_gym.layouts import ENCODED, Group, Kind, Layout, Leaf, has_column

__all__ = ["check_space", "layout_of_space", "space_to_json"]

_FIXED = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
_VARIABLE = (spaces.Text, spaces.Sequence, spaces.Graph, spaces.OneOf)
_RECORDABLE = (*_FIXED, *_VARIABLE, spaces.Dict, spaces.Tuple)


def check_space(space: spaces.Space[Any], role: str) -> None:
    """Refuse a space that cannot be recorded.

    A subclass is recorded as its base; any space of texts (MiniGrid has one of its own) as `Text`.

    Args:
        space: Observation or action space.
        role: What it is, for the message.

    Raises:
        UnsupportedSpace: It, or a space in it, is none of Gymnasium's; names it.
    """
    if not (isinstance(space, _RECORDABLE) or _holds_texts(space)):
        raise UnsupportedSpace(
            f"the {role} space holds {space!r} of type {type(space).__name__}, which is none of "
            "Gymnasium's: derive it from the space that its values belong to"
        )
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
    """Layout of what `space.sample()` returns, the best guess before a value is seen."""
    if isinstance(space, spaces.Dict):
        if not all(type(key) in (str, int) for key in space.spaces):
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


def space_to_json(space: spaces.Space[Any]) -> str:
    """A space as JSON, for whoever reads the store without the environment."""
    return json.dumps(_content(space), sort_keys=True)


def _content(space: spaces.Space[Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"type": type(space).__name__}
    if isinstance(space, spaces.Dict):
        content["spaces"] = [[str(key), _content(part)] for key, part in space.spaces.items()]
    elif parts := _parts(space):
        content["spaces"] = [_content(part) for part in parts]
    for name in ("n", "start", "nvec", "shape", "min_length", "max_length"):
        value = getattr(space, name, None)
        if value is not None:
            content[name] = np.asarray(value).tolist()
    for name in ("low", "high"):
        if isinstance(space, spaces.Box):
            content[name] = _compact(getattr(space, name))
    if isinstance(space, spaces.Text):
        content["characters"] = "".join(sorted(space.character_set))
    if isinstance(space, spaces.Sequence):
        content["stack"] = space.stack
    if space.dtype is not None and isinstance(space, _FIXED):
        content["dtype"] = np.dtype(space.dtype).str
    return content


def _compact(values: npt.NDArray[Any]) -> Any:
    """As lists, or as the one number that all of them are; JSON knows no infinity but as text."""
    if values.ndim and values.size and (values == values.flat[0]).all():
        values = values.flat[0]
    if not np.isfinite(values).all():
        return np.vectorize(str, otypes=[object])(values).tolist()
    return values.tolist()
