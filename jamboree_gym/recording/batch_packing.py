"""Batches of a vector environment -> what rows keep of them, one value for each sub-environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import Layout, Leaf, as_array, has_column
from jamboree_gym.arrays.tensors import on_host
from jamboree_gym.environment.outcomes import refusal

__all__ = ["BatchPacker", "copied_batch", "rewards_of", "rewards_together"]

_INTEGERS = "biu"
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


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
        self._dtype = np.dtype(np.void)
        self._shape: tuple[int, ...] = (-1,)  # of no batch
        self._cut: Callable[[bytes], tuple[Any, ...]] | None = None  # None: the values are scalars

    def pack(self, batch: Any) -> Sequence[Any] | None:
        """The packed values of a batch, a copy; None if it is no array of numbers."""
        if batch.__class__ is not np.ndarray:
            return None
        is_known = batch.dtype is self._dtype and batch.shape == self._shape
        if not is_known and not self._accepts(batch):  # as `layout_for`, but for a call
            return None
        cut = self._cut
        if cut is None:  # a number of NumPy costs as much as all else here, one of Python little
            return batch.tolist() if self._dtype.kind in _INTEGERS else list(batch)
        content = batch.tobytes()
        return (content,) if self._size == 1 else cut(content)

    def layout_for(self, batch: Any) -> Layout | None:
        """The layout of a batch that can be packed; None if it is no array of numbers."""
        if batch.__class__ is not np.ndarray:
            return None
        is_known = batch.dtype is self._dtype and batch.shape == self._shape
        return self.layout if is_known or self._accepts(batch) else None

    def unpack(self, packed: Any) -> Any:
        """A packed value of the newest batch as it was; an array can't be written to."""
        if self._cut is None:
            return self._dtype.type(packed)
        return np.ndarray(self._shape[1:], self._dtype, packed)

    def _accepts(self, batch: Any) -> bool:
        """Whether batches of this form can be packed; then it is remembered."""
        if batch.shape == self._shape and batch.dtype == self._dtype:
            self._dtype = batch.dtype
            return True
        if not has_column(batch.dtype) or not batch.ndim or len(batch) != self._size:
            return False
        is_scalar = batch.ndim == 1
        leaf = Leaf(batch.dtype, batch.shape[1:], "numpy" if is_scalar else "array")
        self._cut = None if is_scalar else Struct(f"{leaf.nbytes}s" * self._size).unpack
        self._shape, self._dtype, self.layout = batch.shape, batch.dtype, leaf
        return True


def rewards_of(batch: Any, size: int) -> list[float] | None:
    """Rewards of shape (size,) or (size, 1) as floats; None if they are something else."""
    if batch.__class__ is np.ndarray and batch.shape == (size,):
        dtype = batch.dtype
        if dtype is _FLOAT32 or dtype is _FLOAT64:
            rewards: list[float] = batch.tolist()
            return rewards
    array = rewards_together(batch, size)
    return None if array is None or array.ndim > 1 else list(map(float, array.tolist()))


def rewards_together(batch: Any, size: int) -> npt.NDArray[Any] | None:
    """Rewards as an array: (size,), or (size, ...) where each is several; None if they are none."""
    array = as_array(batch)
    if array is None or not array.ndim or not has_column(array.dtype):
        return None
    if len(array) != size or not array.size:
        return None
    if array.size == size:
        return array.ravel()
    return None if isinstance(batch, (list, tuple)) else array


def copied_batch(actions: Any) -> Any:
    """A copy of the actions, as they were before the environment got them.

    Raises:
        InvalidRecord: They cannot be copied.
    """
    if actions.__class__ is np.ndarray and not actions.dtype.hasobject:
        return actions.copy()
    try:
        return _copied(actions)
    except Exception as error:
        raise refusal("action", error) from error


def _copied(value: Any) -> Any:
    if value.__class__ in (list, tuple):
        return value.__class__([_copied(part) for part in value])
    if value.__class__ is dict:
        return {name: _copied(part) for name, part in value.items()}
    return deepcopy(on_host(value))
