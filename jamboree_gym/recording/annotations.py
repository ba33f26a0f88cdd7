"""What an agent says of the next step of all sub-environments -> what it says of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jamboree_gym.arrays.layout import Group, Leaf, as_array
from jamboree_gym.errors import InvalidRecord

__all__ = ["AnnotationColumns", "each", "shares_of"]


class AnnotationColumns:
    """Names and types of numbers that are said of each step.

    Args:
        columns: By name; a number each, of dtype and kind.

    Attributes:
        layout: Of an annotation that has these numbers.
    """

    def __init__(self, columns: Mapping[str, Leaf]) -> None:
        self.layout = Group("dict", tuple(columns), tuple(columns.values()))
        self._types = {
            name: leaf.dtype.type if leaf.kind == "numpy" else None
            for name, leaf in columns.items()
        }

    def annotation(self, numbers: Sequence[Any]) -> dict[str, Any]:
        """The annotation with these numbers, as the agent would say it."""
        return {
            name: number if kind is None else kind(number)
            for (name, kind), number in zip(self._types.items(), numbers, strict=True)
        }


def each(values: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """What of annotations by name is for each sub-environment."""
    shares = {name: shares_of(value, size, name) for name, value in values.items()}
    return ({name: share[index] for name, share in shares.items()} for index in range(size))


def shares_of(value: Any, size: int, name: str) -> Sequence[Any]:
    """What of a value is for each sub-environment."""
    if isinstance(value, (bool, int, float, str, bytes, np.generic)):
        return [value] * size
    if isinstance(value, dict):
        parts = {key: shares_of(part, size, f"{name}.{key}") for key, part in value.items()}
        return [{key: part[index] for key, part in parts.items()} for index in range(size)]
    array = as_array(value)
    shape = () if array is None else array.shape
    shares: Sequence[Any] = list(value) if array is None else list(array) if shape else []
    if len(shares) != size:
        raise InvalidRecord(
            f"the annotation {name} has no value for each of the {size} sub-environments, "
            f"but {len(shares)}, of shape {shape[1:]}"
        )
    return shares
