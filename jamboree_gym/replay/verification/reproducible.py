"""`check_reproducible`: whether an environment plays the same again; if not, what differs, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym

from jamboree_gym.arrays.difference import Difference, shown
from jamboree_gym.checked import Count, checked
from jamboree_gym.errors import InvalidArgument, ReplayError
from jamboree_gym.replay.verification.agents_as_one import AS_ONE_ID, AgentsAsOne, is_of_several
from jamboree_gym.replay.verification.causes import (
    CAUSES,
    experiments,
    kept_generators,
    standing_clock,
)
from jamboree_gym.replay.verification.other_process import play_elsewhere
from jamboree_gym.replay.verification.rollouts import Play, Rollout, first_difference, play

__all__ = ["Reproducibility", "check_reproducible"]

STEPS = 200
_HASH_SEEDS = (1, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Reproducibility:
    """Whether an environment plays the same again; true if it does.

    Attributes:
        env_id: Of the environment.
        episodes: Number of episodes that were played twice or more.
        steps: Number of their steps.
        where: Where the first difference was: `in the same process`, ...; None if there is none.
        difference: The first value that differs; None if there is none.
        cause: The usual cause, found by experiments; None if there is no difference.
        mend: What to do about it; None if there is no difference.
    """

    env_id: str
    episodes: int
    steps: int
    where: str | None = None
    difference: Difference | None = None
    cause: str | None = None
    mend: str | None = None

    def __bool__(self) -> bool:
        """Whether it plays the same again."""
        return self.difference is None

    def __str__(self) -> str:
        """One line; of an environment that differs, a second one with the cause."""
        if self.difference is None:
            return (
                f"{self.env_id} plays the same again: {self.episodes} episodes, {self.steps:,} "
                "steps, seeded and not, in this process and in a new one"
            )
        one, other = shown(self.difference.a), shown(self.difference.b)
        return (
            f"{self.env_id} differs {self.where}: {self.difference.place}: first {one}, then "
            f"{other}\n  the usual cause: {self.cause}; {self.mend}"
        )


@checked
def check_reproducible(
    env_id: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    modules: Sequence[str] = (),
    steps: Count = STEPS,
    seed: Count = 0,
) -> Reproducibility:
    """Play an environment again in several ways, and compare every bit. Needs no store.

    Two seeded episodes and an unseeded one are played one after the other, then again: in a new
    environment, each alone, in a new process, and in one without your environment variables. If
    something differs, it is tried what has to be taken away for it to be equal.

    Args:
        env_id: Of an environment that is registered. Of PettingZoo: `aec:classic/tictactoe-v3`, or
            `parallel:...`; then a step is a turn.
        arguments: For `gymnasium.make`, or for `pettingzoo.make`.
        modules: Modules that register environments; a new process imports them first.
        steps: Most steps of an episode.
        seed: Of the first episode.

    Raises:
        InvalidArgument: `steps` is 0.
        ReplayError: The environment cannot be made, reset or stepped.

    Example:
        >>> print(check_reproducible("CartPole-v1"))
        CartPole-v1 plays the same again: 3 episodes, 63 steps, seeded and not, in this process ...
    """
    if not steps:
        raise InvalidArgument("steps=0: play at least one")
    if not is_of_several(env_id):
        return _Trial(env_id, dict(arguments or {}), modules, steps, seed).report()
    named = {"of": env_id, **(arguments or {})}
    found = _Trial(AS_ONE_ID, named, [*modules, AgentsAsOne.__module__], steps, seed).report()
    return replace(found, env_id=env_id)


class _Trial:
    """The plays of one environment."""

    def __init__(
        self,
        env_id: str,
        arguments: dict[str, Any],
        modules: Sequence[str],
        steps: int,
        seed: int,
    ) -> None:
        self._env_id, self._arguments, self._modules = env_id, arguments, modules
        self._what = Play(lambda: gym.make(env_id, **arguments), steps)
        self._first = play(self._what, [Rollout(seed), Rollout(seed + 1), Rollout(None)])

    def report(self) -> Reproducibility:
        """Compare, the cheapest first."""
        steps = sum(len(one.actions) for one in self._first)
        equal = Reproducibility(self._env_id, len(self._first), steps)
        found = first_difference(self._first, play(self._what, self._first))
        if found is not None:
            return self._differs(equal, "in the same process", found, self._cause_here())
        alone = [one for episode in self._first for one in play(self._what, [episode])]
        found = first_difference(self._first, alone)
        if found is not None:
            where = "after another episode of the same environment"
            return self._differs(equal, where, found, "what a reset forgets")
        return self._compared_elsewhere(equal)

    def _compared_elsewhere(self, equal: Reproducibility) -> Reproducibility:
        """Compare with new processes, all of which run at once."""
        with ThreadPoolExecutor() as pool:
            salted = [pool.submit(self._elsewhere, salt) for salt in _HASH_SEEDS]
            bare = pool.submit(self._elsewhere, _HASH_SEEDS[0], is_bare=True)
            one, other = (plays.result() for plays in salted)
        found = first_difference(self._first, one)
        if found is not None:
            return self._differs(equal, "in a new process", found, self._cause(one, other))
        found = first_difference(self._first, other)
        if found is not None:
            return self._differs(equal, "in a new process", found, "the order of a set")
        try:
            found = first_difference(self._first, bare.result())
        except ReplayError:  # it needs one of your variables, so that it can be told nothing
            found = None
        if found is None:
            return equal
        where = "without your environment variables"
        return self._differs(equal, where, found, "an environment variable")

    def _differs(
        self, equal: Reproducibility, where: str, found: tuple[int, Difference], cause: str
    ) -> Reproducibility:
        number, difference = found
        how = "unseeded" if self._first[number].seed is None else "seeded"
        return replace(
            equal,
            where=f"{where} ({how})",
            difference=difference,
            cause=cause,
            mend=CAUSES[cause],
        )

    def _cause_here(self) -> str:
        """What has to be taken away for two plays in this process to be equal."""
        with kept_generators():
            for cause, prepare, stands_still in experiments():
                plays = []
                for _ in range(2):
                    with standing_clock() if stands_still else nullcontext():
                        plays.append(play(self._what, self._first, prepare=prepare))
                if first_difference(*plays) is None:
                    return cause
        return "an order that changes"

    def _elsewhere(self, hash_seed: int, *, is_bare: bool = False) -> list[Rollout]:
        return play_elsewhere(
            self._env_id,
            self._arguments,
            self._modules,
            self._first,
            steps=self._what.steps,
            hash_seed=hash_seed,
            is_bare=is_bare,
        )

    def _cause(self, one: Sequence[Rollout], other: Sequence[Rollout]) -> str:
        """What differs between processes: the salt of hashes, or something else.

        Args:
            one: What a process played.
            other: What one with another salt played.
        """
        again = self._elsewhere(_HASH_SEEDS[0])
        if first_difference(one, again) is None and first_difference(one, other) is not None:
            return "the order of a set"
        return "something that is new in each process"
