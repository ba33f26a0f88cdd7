"""Where the value that an agent gave was most wrong, as the next step showed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.errors import EpisodeNotFound
from jamboree_gym.jamboree import Jamboree
from jamboree_gym.records import Transitions

__all__ = ["NEWEST", "Surprise", "Surprises", "discount_of", "value_errors"]

NEWEST: Final = 200  # episodes that are looked at
LOOKED_AT_FIRST: Final = 5
VALUE: Final = "value"  # the annotation, as JamboreeCallback names it


class Surprise(NamedTuple):
    """The largest value error of an episode.

    Attributes:
        id: The episode.
        step: The step.
        error: What the step returned and what was expected after it, less what was expected before.
    """

    id: str
    step: int
    error: float


def value_errors(steps: Transitions, discount: float) -> npt.NDArray[np.float64] | None:
    """The temporal difference errors of the values that the agent annotated.

    As in Sutton and Barto, Reinforcement Learning, 2nd edition, equation 6.5.

    Returns:
        float64 (n,), NaN where a value is missing; None if no step has one.
    """
    if VALUE not in steps.annotations or not len(steps):
        return None
    said: Any = np.asarray(steps.annotations[VALUE])
    if steps.rewards.ndim > 1:  # of which number of a reward it is, nobody knows
        return None
    if said.dtype.kind not in "biuf":
        return None
    values = said.reshape(len(said), -1)[:, 0].astype(np.float64)
    values[~steps.annotated] = np.nan
    after = np.append(values[1:], np.nan)
    after[steps.terminations] = 0.0  # nothing follows a terminal state
    errors: npt.NDArray[np.float64] = steps.rewards + discount * after - values
    return errors


def discount_of(training: object) -> float:
    """The discount of a training, as its session describes it; 1 if it is not known."""
    known = training.get("hyperparameters") if isinstance(training, dict) else None
    gamma = known.get("gamma") if isinstance(known, dict) else None
    return float(gamma) if isinstance(gamma, (int, float)) else 1.0


class Surprises:
    """The most surprising episodes of a run. An episode that is over is read once.

    Args:
        jam: The store.
    """

    def __init__(self, jam: Jamboree) -> None:
        self._jam = jam
        self._known: dict[str, Surprise | None] = {}
        self._discount = 1.0

    def largest(self, ids: Sequence[str], discount: float) -> Surprise | None:
        """The largest error in the newest episodes; None if there is no value.

        Args:
            ids: The episodes of the run that are over, oldest first.
            discount: Of a step.
        """
        if discount != self._discount:
            self._known, self._discount = {}, discount
        ids = ids[-NEWEST:]
        known = {id: self._known[id] for id in ids if id in self._known}
        for id in reversed(ids):
            if id not in known:
                known[id] = self._surprise(id)
            if len(known) == LOOKED_AT_FIRST and not any(known.values()):
                break  # this agent says no value
        self._known = known
        found = [one for one in known.values() if one is not None]
        return max(found, key=lambda one: abs(one.error), default=None)

    def _surprise(self, id: str) -> Surprise | None:
        try:
            errors = value_errors(self._jam.episode(id).steps(), self._discount)
        except EpisodeNotFound:  # deleted meanwhile
            return None
        if errors is None or np.isnan(errors).all():
            return None
        step = int(np.nanargmax(abs(errors)))
        return Surprise(id, step, float(errors[step]))
