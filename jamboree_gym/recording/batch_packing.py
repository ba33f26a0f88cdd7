"""Batches of a vector environment -> what rows keep of them, one value for each sub-environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

import numpy as np

from jamboree_gym.arrays.layout import Layout, Leaf, as_array, has_column

__all__ = ["BatchPacker", "rewards_of"]

_FLOATS = "efd"


class BatchPacker:
    """Packs batches that are arrays of numbers.

    It remembers the form of the newest batch, because the next one almost always has it, too.

    Args:
        size: Number of sub-environments.

    Attributes:
        layout: Of one value of the newest batch; None before the first.
    """

    __slots__ = ("_cut", "_dtype", "_shape", "_size", "layout")

    def __init__(self, size: int) -> None:
        self.layout: Layout | None = None
        self._size = size
        self._dtype: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] | None = None
        self._cut: Callable[[bytes], tuple[Any, ...]] | None = None  # None: the values are scalars

    def pack(self, batch: Any) -> Sequence[Any] | None:
        """The packed values of a batch; None if it is no array of numbers."""
        if batch.__class__ is not np.ndarray:
            return None
        if (batch.shape != self._shape or batch.dtype != self._dtype) and not self._accepts(batch):
            return None
        cut = self._cut
        return list(batch) if cut is None else cut(batch.tobytes())

    def _accepts(self, batch: Any) -> bool:
        """Whether batches of this form can be packed; then it is remembered."""
        if not has_column(batch.dtype) or not batch.ndim or len(batch) != self._size:
            return False
        is_scalar = batch.ndim == 1
        leaf = Leaf(batch.dtype, batch.shape[1:], "numpy" if is_scalar else "array")
        self._cut = None if is_scalar else Struct(f"{leaf.nbytes}s" * self._size).unpack
        self._shape, self._dtype, self.layout = batch.shape, batch.dtype, leaf
        return True


def rewards_of(batch: Any, size: int) -> list[float] | None:
    """Rewards of shape (size,) or (size, 1) as floats; None if they are something else."""
    if batch.__class__ is np.ndarray and batch.dtype.char in _FLOATS and batch.shape == (size,):
        rewards: list[float] = batch.tolist()
        return rewards
    array = as_array(batch)
    if array is None or not array.ndim or not has_column(array.dtype):
        return None
    if not len(array) == size == array.size:
        return None
    return list(map(float, array.ravel().tolist()))
