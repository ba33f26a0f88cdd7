"""Batches and infos of a vector environment, taken apart into those of its sub-environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import iterate

from jamboree_gym.arrays.tensors import is_tensor, tensor_array
from jamboree_gym.errors import InvalidRecord

__all__ = ["split_batch", "split_infos"]

Infos = Mapping[str, Any] | Sequence[Mapping[str, Any]]
# A Python number of each of these was put into an array by VectorEnv: it is made one again.
_PYTHON_DTYPES = (np.dtype(bool), np.dtype(int), np.dtype(float))


def split_batch(space: spaces.Space[Any] | None, batch: Any, size: int) -> Sequence[Any]:
    """The parts of a batch, one for each sub-environment.

    A dict is taken apart by its own keys, as environments return some that their space lacks.

    Args:
        space: Of the batch; None if it is not known.
        batch: Arrays, or what holds them.
        size: Number of sub-environments.

    Raises:
        InvalidRecord: It is a dict that does not have so many parts.
    """
    if batch.__class__ is np.ndarray and batch.ndim:  # no need to take all of them out of it
        return cast("Sequence[Any]", batch)
    if batch.__class__ is dict and batch:
        known = space.spaces if isinstance(space, spaces.Dict) else {}
        columns = [split_batch(known.get(name), part, size) for name, part in batch.items()]
        if all(len(column) == size for column in columns):
            return [dict(zip(batch, parts, strict=True)) for parts in zip(*columns, strict=True)]
        if not known:
            names = [
                str(name) for name, one in zip(batch, columns, strict=True) if len(one) != size
            ]
            raise InvalidRecord(
                f"the batch has no part for each of {size} sub-environments in {', '.join(names)}"
            )
    if space is None:
        return batch if isinstance(batch, (list, tuple)) else []
    return list(iterate(space, batch))


def split_infos(infos: Infos, num_envs: int) -> list[Any]:
    """Undo what `VectorEnv._add_info` does: one dict per sub-environment.

    A key's values stand under `"key"`, and under `"_key"` which sub-environments have it; without
    that all have it. An int, float or bool comes back as Python's, even if it was a `numpy.int64`
    or `numpy.float64`: the two cannot be told apart. A list of dicts is taken as it is.
    """
    if not isinstance(infos, Mapping):
        return [dict(info) if isinstance(info, Mapping) else info for info in infos]
    split: list[Any] = [{} for _ in range(num_envs)]
    for name, values, mask in _columns(infos, num_envs):
        value_of = _reader(values, num_envs)
        for index in range(num_envs) if mask is None else mask.nonzero()[0].tolist():
            split[index][name] = value_of(index)
    return split


def _columns(infos: Mapping[str, Any], num_envs: int) -> Iterator[tuple[str, Any, Any]]:
    """Each key with its values and its mask, or None where it has no mask."""
    names_of_masks = {f"_{name}" for name in infos}
    for name, values in infos.items():
        mask = _as_array(infos.get(f"_{name}"))
        if mask is None and name in names_of_masks and _is_mask(_as_array(values), num_envs):
            continue
        yield name, values, mask if _is_mask(mask, num_envs) else None


def _is_mask(values: Any, num_envs: int) -> bool:
    return (
        isinstance(values, np.ndarray) and values.dtype.kind == "b" and values.shape == (num_envs,)
    )


def _as_array(values: Any) -> Any:
    """A tensor as an array; all else as it is."""
    if isinstance(values, np.ndarray) or not is_tensor(values):
        return values
    array = tensor_array(values)
    return values if array is None else array


def _reader(values: Any, num_envs: int) -> Callable[[int], Any]:
    """How to get the value of one sub-environment."""
    if isinstance(values, Mapping):
        return split_infos(values, num_envs).__getitem__
    values = _as_array(values)
    if not isinstance(values, (list, tuple, np.ndarray)) or not _has_length(values, num_envs):
        return lambda _: values
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype in _PYTHON_DTYPES:
        values = values.tolist()
    return lambda index: values[index]


def _has_length(values: Any, num_envs: int) -> bool:
    return getattr(values, "ndim", 1) > 0 and len(values) == num_envs
