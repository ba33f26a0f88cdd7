"""What an actor-critic policy says of the actions that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.policies import BasePolicy

__all__ = ["PolicyWatch", "value_and_log_prob"]


def value_and_log_prob(result: Any, num_envs: int) -> dict[str, npt.NDArray[np.float32]]:
    """Value and log-probability, if a `forward` returned them.

    Args:
        result: Actions, values, log-probabilities, and perhaps more.
        num_envs: Of so many environments.

    Returns:
        `value` and `log_prob`, (num_envs,) each, or nothing.
    """
    if not isinstance(result, tuple) or len(result) < 3:
        return {}
    named = {"value": result[1], "log_prob": result[2]}
    if not all(isinstance(one, torch.Tensor) and one.numel() == num_envs for one in named.values()):
        return {}
    return {name: one.detach().flatten().cpu().numpy() for name, one in named.items()}


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
