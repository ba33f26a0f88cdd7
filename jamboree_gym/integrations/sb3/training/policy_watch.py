"""What an actor-critic policy says of the actions that it takes, as annotations of the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy

from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.recording.annotations import AnnotationColumns

__all__ = ["PolicyWatch", "numbers_of_forward", "numbers_of_version"]

_INT: Final = Leaf(np.dtype(np.int64), (), "python")
_VERSION_ALONE: Final = AnnotationColumns({"policy_version": _INT})

Numbers: TypeAlias = tuple[AnnotationColumns, Sequence[tuple[Any, ...]]]
"""What `annotate_numbers` takes."""


def numbers_of_version(version: int, num_envs: int) -> Numbers:
    """The annotation `policy_version` of each environment.

    Args:
        version: Number of updates that the policy has had.
        num_envs: How many environments.
    """
    return _VERSION_ALONE, [(version,)] * num_envs


def numbers_of_forward(version: int, result: Any, num_envs: int) -> Numbers:
    """The same, with `value` and `log_prob` if a `forward` returned them.

    Args:
        version: As above.
        result: Actions, values, log-probabilities, and perhaps more.
        num_envs: As above.
    """
    if not isinstance(result, tuple) or len(result) < 3:
        return numbers_of_version(version, num_envs)
    values, log_probs = result[1], result[2]
    if not isinstance(values, torch.Tensor) or not isinstance(log_probs, torch.Tensor):
        return numbers_of_version(version, num_envs)
    if not values.numel() == log_probs.numel() == num_envs:
        return numbers_of_version(version, num_envs)
    columns = _columns(values.dtype, log_probs.dtype)
    return columns, list(zip(repeat(version), _flat(values), _flat(log_probs)))


@lru_cache(maxsize=16)
def _columns(value: torch.dtype, log_prob: torch.dtype) -> AnnotationColumns:
    value_leaf, log_prob_leaf = [
        Leaf(torch.empty(0, dtype=one).numpy().dtype, (), "numpy") for one in (value, log_prob)
    ]
    return AnnotationColumns(
        {"policy_version": _INT, "value": value_leaf, "log_prob": log_prob_leaf}
    )


def _flat(tensor: torch.Tensor) -> list[Any]:
    """All numbers of a tensor. `tolist` takes half as long as making an array, or a view."""
    numbers: list[Any] = tensor.tolist()
    dimensions = tensor.dim()
    if dimensions == 1:
        return numbers
    if dimensions == 2:
        return [number for row in numbers for number in row]
    return _flat(tensor.flatten())


class PolicyWatch:
    """Stands before the `forward` of a policy and tells what it returns; changes nothing of it.

    SB3 calls `forward` once for every step that it takes while it collects, and nowhere else. A
    hook of torch would do, but sb3-contrib before 2.8 calls `forward` past the hooks. A copy of the
    policy, or a pickle, has its own `forward` again.

    Args:
        policy: The policy.
        on_result: Gets what `forward` returned.
    """

    def __init__(self, policy: BasePolicy, on_result: Callable[[Any], None]) -> None:
        self._policy = policy
        self._on_result = on_result
        self._before = policy.__dict__.get("forward")
        self._forward = policy.forward
        policy.__dict__["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the policy itself returns."""
        result = self._forward(*args, **kwargs)
        self._on_result(result)
        return result

    def remove(self) -> None:
        """The policy is as it was. A second call does nothing."""
        if self._policy.__dict__.get("forward") is self:
            del self._policy.__dict__["forward"]
            if self._before is not None:
                self._policy.__dict__["forward"] = self._before

    def __reduce__(self) -> tuple[Any, ...]:
        """In a copy of the policy: the copy's own."""
        return getattr, (self._policy, "forward")
