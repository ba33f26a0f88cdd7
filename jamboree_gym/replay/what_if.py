"""Simulates how an episode could have continued from a step under another policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, Final, Protocol, cast, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from jamboree_gym.checked import Count, checked
from jamboree_gym.environment.env_state import put_rng_state
from jamboree_gym.environment.hidden_generators import new_hidden_state
from jamboree_gym.environment.outcomes import reward_of, weighted_sum
from jamboree_gym.environment.provenance import describe, env_id_of, generator_of
from jamboree_gym.errors import InvalidArgument, ReplayError
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.episode import Episode
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.recording.recorder import EpisodeRecorder
from jamboree_gym.replay.rebuilding.env_copies import live_envs
from jamboree_gym.replay.rebuilding.fast_forward import LiveEnv, check_step, fast_forward
from jamboree_gym.replay.rebuilding.rebuild import MakeAgain, rebuild_env
from jamboree_gym.replay.rebuilding.wrapping import BuiltWrapper

__all__ = ["PERCENTILES", "WHAT_IF_TAG", "WhatIf", "what_if", "worth_of_reward"]

WHAT_IF_TAG: Final = "what_if"
"""Tag of recorded continuations; its value is the step of the fork."""
PERCENTILES: Final = (5, 50, 95)


@runtime_checkable
class Predictor(Protocol):
    """A model of Stable-Baselines3, or an object with the same `predict`."""

    def predict(self, observation: Any, *, deterministic: bool) -> tuple[Any, Any]:
        """An action, and a second value that is ignored."""
        ...


ChooseAction = Callable[[Any], Any]
"""Returns the action for an observation."""
Worth = Callable[[Any], float]
"""Returns what a reward counts for in a return."""


@dataclass(frozen=True, slots=True, eq=False)
class WhatIf:
    """Results of another policy, from a step of an episode on.

    Attributes:
        episode_id: Id of the episode.
        step: Number of recorded steps before the other policy took over.
        returns: float64 (n,), undiscounted returns after that step.
        lengths: int64 (n,), numbers of steps after that step.
        recorded_return: Recorded return after that step; with `max_steps`, of that many steps.
        recorded_length: Number of recorded steps in that return.
        children: Ids of the continuations, if they were recorded.
    """

    episode_id: str
    step: int
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    recorded_return: float
    recorded_length: int
    children: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean of the returns."""
        return float(self.returns.mean())

    @property
    def share_better(self) -> float:
        """Share of continuations with a higher return than the recorded one: 0 to 1."""
        return float((self.returns > self.recorded_return).mean())

    @checked
    def percentile(self, q: float) -> float:
        """The return below which q percent of the continuations are.

        Raises:
            InvalidArgument: It is not from 0 to 100.
        """
        if not 0 <= q <= 100:
            raise InvalidArgument(f"q={q!r}: give a percentage, from 0 to 100")
        return float(np.percentile(self.returns, q))

    def __len__(self) -> int:
        """Number of continuations."""
        return len(self.returns)

    def __repr__(self) -> str:
        """How many there are, and their mean."""
        return f"<WhatIf of {len(self):,} continuations, return {self.mean:.6g} on average>"

    def __str__(self) -> str:
        """The results in two lines."""
        spread = ", ".join(f"{q} %: {self.percentile(q):.6g}" for q in PERCENTILES)
        return (
            f"episode {self.episode_id} from step {self.step} on, {len(self):,} times: return "
            f"{self.mean:.6g} on average ({spread}), {self.lengths.mean():.6g} steps\n"
            f"what happened: return {self.recorded_return:.6g}, {self.recorded_length:,} steps; "
            f"{self.share_better:.0%} did better{self._remark}"
        )

    @property
    def _remark(self) -> str:
        if len(self) == 1 or (self.returns != self.returns[0]).any():
            return ""
        return "; all are equal: deterministic=False draws the actions of a model"


@checked
def what_if(
    episode: Episode,
    step: int,
    policy: ChooseAction | Predictor,
    n: int = 100,
    *,
    seed: Count = 0,
    max_steps: Count | None = None,
    same_noise: bool = False,
    deterministic: bool = True,
    weights: Sequence[float] | None = None,
    record: bool = False,
    run: str | None = None,
    tags: Mapping[str, Any] | None = None,
    progress: bool | Progress = False,
    wrappers: Sequence[BuiltWrapper] = (),
    trust_entry_point: bool = False,
    trust_snapshots: bool = False,
    make: MakeAgain | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> WhatIf:
    """Fork an episode n times, and continue each fork under another policy.

    The environment is brought to the step as by `fork`. If it can be copied there, or has
    snapshots, that happens only once. A copy is used only if it has repeated the recorded steps,
    bit for bit.

    Every continuation has its own noise: the state of `np_random` and of the action space's
    generator follows from `seed` and the number of the continuation. So the same call gives the
    same result if the policy is deterministic. Noise from other sources (sticky actions of ALE)
    continues as it was.

    Example:
        >>> print(what_if(jam.episode(id), 40, model, n=200))
        episode ... from step 40 on, 200 times: return 61.3 on average (5 %: 21, 50 %: ...
        what happened: return 17, 17 steps; 97 % did better

    Args:
        episode: The episode.
        step: Number of recorded steps before the policy takes over.
        policy: A function that returns an action for an observation, or a model with `predict`, as
            in Stable-Baselines3.
        n: Number of continuations.
        seed: Seed for the noise.
        max_steps: Most steps of each continuation; None = until its end, which an environment
            without a time limit may never reach.
        same_noise: Keep the recorded state of `np_random`: all differences come from the policy.
        deterministic: Passed to `predict`.
        weights: Where a reward is several numbers: a weight for each of them in the returns, as for
            `weighted` of a query.
        record: Whether to record each continuation as a child, with the tag `what_if`.
        run: Run of the children; None = the episode's.
        tags: Tags of the children, added to the episode's.
        progress: Whether to show progress on stderr; or a function that is called with the number
            of finished continuations and the total.
        wrappers: As for `fork`.
        trust_entry_point: As for `fork`.
        trust_snapshots: As for `fork`.
        make: As for `fork`.
        env_kwargs: As for `fork`.

    Raises:
        ReplayError: As `fork`; or `n` is below 1.
        InvalidArgument: A reward is several numbers, and there is not a weight for each. Or `seed`
            or `max_steps` is negative.
    """
    if n < 1:
        raise ReplayError(f"n={n}: a distribution needs at least one continuation")
    choose_action = _action_chooser(policy, deterministic=deterministic)
    check_step(episode, step)
    make_env = partial(
        rebuild_env,
        wrappers=wrappers,
        trust_entry_point=trust_entry_point,
        make=make,
        env_kwargs=env_kwargs,
    )
    make_live = partial(
        fast_forward,
        episode,
        step,
        make_env,
        trust_entry_point=trust_entry_point,
        trust_snapshots=trust_snapshots,
    )
    rest = episode._rows(step)
    worth = worth_of_reward(episode.id, rest.rewards.shape[1:], weights)
    children = _Children(episode, step, run, tags) if record else None

    def continuations() -> Iterator[tuple[int, tuple[float, int]]]:
        with closing(live_envs(make_live, n, rest, episode.provenance.get("vector"))) as places:
            for number, live in enumerate(places):
                noise = _new_noise(live.env, seed, number, keep=same_noise)
                if children is None:
                    yield number + 1, _continue(live, choose_action, worth, max_steps)
                else:
                    child = children.begin(live, noise)
                    try:
                        yield number + 1, _continue(live, choose_action, worth, max_steps, child)
                    finally:
                        child.abandon()

    outcomes = list(reported(continuations(), n, progress, done_is="tried"))
    happened = rest.rewards[1:][:max_steps]
    return WhatIf(
        episode.id,
        step,
        np.array([total for total, _ in outcomes], np.float64),
        np.array([steps for _, steps in outcomes], np.int64),
        reduce(add, map(worth, happened), 0.0),  # as continuations add up; sum() of 3.12 does not
        len(happened),
        () if children is None else tuple(children.ids),
    )


def _action_chooser(policy: ChooseAction | Predictor, *, deterministic: bool) -> ChooseAction:
    predict = getattr(policy, "predict", None)
    if predict is not None:
        return lambda observation: predict(observation, deterministic=deterministic)[0]
    return cast(ChooseAction, policy)


def worth_of_reward(
    episode_id: str, shape: tuple[int, ...], weights: Sequence[float] | None
) -> Worth:
    """What the rewards of an episode count for; these have one shape.

    Raises:
        InvalidArgument: A reward is several numbers, and there is not a weight for each.
    """
    count = int(np.prod(shape))
    if not shape:
        return float
    if weights is None or len(weights) != count:
        given = "" if weights is None else f", and there are {len(weights)} weights"
        raise InvalidArgument(
            f"a reward of episode {episode_id!r} has {count} numbers{given}\nsay how to add them "
            f"up: weights={[1.0] * count} (in a shell: --weights {','.join(['1'] * count)})"
        )
    known = tuple(map(float, weights))
    return lambda reward: weighted_sum(known, np.ravel(reward_of(reward)).tolist())


def _new_noise(
    env: gym.Env[Any, Any], seed: int, number: int, *, keep: bool
) -> Mapping[str, Any] | None:
    """Seed the generators for one continuation; return their state if it was set."""
    sequence = np.random.SeedSequence([seed, number])
    env.action_space.seed(int(sequence.generate_state(1)[0]))
    if keep:
        return None
    generator = generator_of(env)
    own = {} if generator is None else type(generator.bit_generator)(sequence).state
    state = {**own, **new_hidden_state(env, sequence)}
    if state:
        put_rng_state(env, state)
    return state or None


def _continue(
    live: LiveEnv,
    choose_action: ChooseAction,
    worth: Worth,
    max_steps: int | None,
    recorder: EpisodeRecorder | None = None,
) -> tuple[float, int]:
    """Run one continuation; return its return and its length."""
    env, observation = live.env, live.observation
    total, steps, ends = 0.0, 0, False
    while not ends and (max_steps is None or steps < max_steps):
        action = choose_action(observation)
        if recorder is not None:
            recorder.admit()
            recorder.handler.set_action(action)
        observation, reward, terminated, truncated, info = env.step(action)
        if recorder is not None:
            recorder.handler.add_step(observation, reward, terminated, truncated, info)
        total += worth(reward)
        steps += 1
        ends = bool(terminated or truncated)
    return total, steps


class _Children:
    """Begins an episode for each continuation; all share one recorder."""

    def __init__(
        self, parent: Episode, step: int, run: str | None, tags: Mapping[str, Any] | None
    ) -> None:
        summary = parent.summary
        self._parent, self._step = parent, step
        self._summary = summary
        self._run = summary.run if run is None else run
        own = parent._connection.check_tags(tags or {})
        self._tags = {**summary.tags, WHAT_IF_TAG: step, **own}
        self._recorder: EpisodeRecorder | None = None
        self.ids: list[str] = []

    def begin(self, live: LiveEnv, rng_state: Mapping[str, Any] | None) -> EpisodeRecorder:
        """Return the recorder of a continuation."""
        recorder = self._recorder = self._recorder or self._make_recorder(live.env)
        recorder.admit()
        recorder.begin(
            live.observation,
            live.info,
            rng_state=rng_state,
            parent=self._summary,
            fork_step=self._step,
        )
        self.ids.append(recorder.episode_id)
        return recorder

    def _make_recorder(self, env: gym.Env[Any, Any]) -> EpisodeRecorder:
        return EpisodeRecorder(
            self._parent._connection,
            env.observation_space,
            env.action_space,
            env_id=env_id_of(env),
            provenance=describe(env),
            options=RecordOptions(self._run, self._tags),
        )
