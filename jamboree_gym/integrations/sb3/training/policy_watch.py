"""What an actor-critic policy says of the actions that it takes, as annotations of the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, Final, Protocol

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy

from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.recording.annotations import AnnotationColumns
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.recording.vector_recorder import VectorRecorder

__all__ = ["AnnotateEach", "AnnotateTogether", "Annotator", "PolicyWatch"]

_INT: Final = Leaf(np.dtype(np.int64), (), "python")
_VERSION_ALONE: Final = AnnotationColumns({"policy_version": _INT})


class Annotator(Protocol):
    """Annotates the next step of all environments."""

    def annotate_version(self, version: int) -> None:
        """Annotate it with `policy_version`.

        Args:
            version: Number of updates that the policy has had.
        """

    def annotate_forward(self, version: int, result: Any) -> None:
        """The same, with `value` and `log_prob` if a `forward` returned them.

        Args:
            version: As above.
            result: Actions, values, log-probabilities, and perhaps more.
        """

    def drop_annotations(self) -> None:
        """What was said of the next step is not recorded."""


class AnnotateTogether:
    """The annotator of environments that have one recorder together."""

    def __init__(self, recorder: VectorRecorder) -> None:
        self._recorder = recorder
        self._num_envs = len(recorder.handlers)
        self.drop_annotations = recorder.drop_annotations

    def annotate_version(self, version: int) -> None:
        """As `Annotator.annotate_version`."""
        self._recorder.annotate_numbers(_VERSION_ALONE, [(version,)] * self._num_envs)

    def annotate_forward(self, version: int, result: Any) -> None:
        """As `Annotator.annotate_forward`."""
        said = _said_of_each(result, self._num_envs)
        if said is None:
            self.annotate_version(version)
            return
        values, log_probs = said
        self._recorder.annotate_numbers(
            _columns(values.dtype, log_probs.dtype),
            list(zip(repeat(version), _flat(values), _flat(log_probs))),
        )


class AnnotateEach:
    """The annotator of environments that have a recorder each."""

    def __init__(self, handlers: Sequence[EpisodeHandler]) -> None:
        self._handlers = handlers

    def annotate_version(self, version: int) -> None:
        """As `Annotator.annotate_version`."""
        for handler in self._handlers:
            handler._merge_annotation({"policy_version": version})

    def annotate_forward(self, version: int, result: Any) -> None:
        """As `Annotator.annotate_forward`."""
        said = _said_of_each(result, len(self._handlers))
        if said is None:
            self.annotate_version(version)
            return
        # NumPy takes a number out of an array in a sixth of the time in which it makes one. It is
        # not asked for one more than there are, because the error that says so takes 1 µs.
        values, log_probs = said[0].numpy(force=True).ravel(), said[1].numpy(force=True).ravel()
        for handler, value, log_prob in zip(self._handlers, values, log_probs, strict=False):
            handler._merge_annotation(
                {"policy_version": version, "value": value, "log_prob": log_prob}
            )

    def drop_annotations(self) -> None:
        """As `Annotator.drop_annotations`."""
        for handler in self._handlers:
            handler.annotation = None


def _said_of_each(result: Any, num_envs: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Values and log-probabilities that a `forward` returned, if they are one for each."""
    if not isinstance(result, tuple) or len(result) < 3:
        return None
    values, log_probs = result[1], result[2]
    if not isinstance(values, torch.Tensor) or not isinstance(log_probs, torch.Tensor):
        return None
    if not values.numel() == log_probs.numel() == num_envs:
        return None
    if torch.bfloat16 in (values.dtype, log_probs.dtype):  # NumPy has none
        return values.float(), log_probs.float()
    return values, log_probs


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
