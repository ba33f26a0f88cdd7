"""The infos of a vector environment, taken apart again into those of its sub-environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jamboree_gym.arrays.tensors import is_tensor, tensor_array

__all__ = ["split_infos"]

Infos = Mapping[str, Any] | Sequence[Mapping[str, Any]]
# A Python number of each of these was put into an array by VectorEnv: it is made one again.
_PYTHON_DTYPES = (np.dtype(bool), np.dtype(int), np.dtype(float))


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
