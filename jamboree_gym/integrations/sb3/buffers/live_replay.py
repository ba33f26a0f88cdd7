"""`JamboreeReplayBuffer`: a replay buffer that holds what is recorded, by whichever process."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from jamboree_gym.arrays.trees import map_leaves
from jamboree_gym.checked import Count, Seconds, checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import (
    BufferMismatch,
    EpisodeNotFound,
    InvalidArgument,
    StoreUnavailable,
    UnsavedRecords,
)
from jamboree_gym.integrations.sb3.buffers.conversion import assign
from jamboree_gym.integrations.sb3.buffers.live_steps import Batch, LiveSteps
from jamboree_gym.integrations.sb3.buffers.next_row import Succession
from jamboree_gym.integrations.sb3.buffers.sum_tree import SumTree
from jamboree_gym.reading.finding.filters import EpisodeFilter, EpisodeTest
from jamboree_gym.reading.finding.names import RunNames, check_runs

__all__ = ["JamboreeReplayBuffer", "PrioritizedSamples", "Unsaved"]

AWAY_S = 5.0  # while Redis is away it is not asked again for so long
SMALLEST_PRIORITY = 1e-6  # so that no step is never drawn again
TRIES = 20  # of drawing windows at random, before all are looked at

log = logging.getLogger(__name__)
_Rows = npt.NDArray[np.int64]


class PrioritizedSamples(NamedTuple):
    """What `ReplayBufferSamples` has, and what one needs to learn from steps of unequal odds.

    Attributes:
        observations: (n, ...).
        actions: (n, action_dim).
        next_observations: (n, ...).
        dones: (n, 1).
        rewards: (n, 1).
        weights: float32 (n, 1), by which to multiply each loss; the largest is 1.
        indices: int64 (n,), for `update_priorities`.
        discounts: (n, 1) where `n_steps` is more than 1, else None.
    """

    observations: Any
    actions: torch.Tensor
    next_observations: Any
    dones: torch.Tensor
    rewards: torch.Tensor
    weights: torch.Tensor
    indices: _Rows
    discounts: torch.Tensor | None = None


def _check_range(name: str, number: float, lowest: float, highest: float = math.inf) -> None:
    if not lowest <= number <= highest or number == math.inf:
        more = f" to {highest}" if highest < math.inf else " or more"
        raise InvalidArgument(f"{name}={number!r}: choose {lowest}{more}")


class Unsaved(dict[str, Any]):
    """Arguments for `replay_buffer_kwargs=` that `model.save()` leaves out: what is live cannot be.

    A model that is loaded has none then, and may predict; to train it, give them again:
    `DQN.load(path, env, custom_objects={"replay_buffer_kwargs": Unsaved(jam=jam, run="a")})`.

    Example:
        >>> DQN("MlpPolicy", env, replay_buffer_class=JamboreeReplayBuffer,
        ...     replay_buffer_kwargs=Unsaved(jam=jam, run="actors"))
    """

    def __reduce__(self) -> tuple[type[dict[Any, Any]], tuple[()]]:
        """Nothing of it."""
        return dict, ()


class JamboreeReplayBuffer(ReplayBuffer):
    """Samples the steps in the store, and those that other processes record meanwhile.

    It holds the newest `buffer_size` steps in arrays of the same layout as those of `ReplayBuffer`
    (with one column, whatever `n_envs` is). `sample` first reads new steps, at most every
    `refresh_s`. **`add` stores nothing**: the steps of the model's own environment come through the
    store, too, so record it in the same run: `jam.record(env, run=...)`. The next refresh has the
    steps of this process. The newest step of an unfinished episode is sampled as a step that does
    not end it. Dict observations are supported.

    If Redis does not answer, the buffer samples the steps that it has, and warns once.

    Example:
        >>> env = jam.record(gym.make("CartPole-v1"), run="actors")
        >>> model = DQN("MlpPolicy", env, replay_buffer_class=JamboreeReplayBuffer,
        ...             replay_buffer_kwargs=Unsaved(jam=jam, run="actors", n_steps=3))
        >>> model.learn(50_000)

    Args:
        buffer_size: Number of steps to hold, the newest. SB3 passes this and the next six.
        observation_space: Of the model.
        action_space: Of the model.
        device: Device of the samples.
        n_envs: Ignored.
        optimize_memory_usage: Must be False, because episodes of several processes are mixed.
        handle_timeout_termination: Whether `dones` is 0 after a truncation.
        jam: The store; None only for a model that is loaded and not trained further.
        run: Only episodes of this run.
        env_id: Only episodes of this environment.
        tags: Only episodes with these tags: values, or functions that are true for the value.
        where: A function of the `EpisodeSummary`, called once when an episode is first seen, which
            may be before its end: test only what does not change.
        forks: Whether forks of an episode of the same run count, too.
        n_steps: Number of steps whose rewards are added up, as in SB3's `NStepReplayBuffer`; the
            sum ends with the episode.
        gamma: Discount factor of that sum: the model's.
        prioritized: Whether steps are drawn in proportion to their priorities (Schaul et al.,
            "Prioritized Experience Replay", 2015). `sample` then returns `PrioritizedSamples`. A
            new step has the highest priority so far, until `update_priorities` changes it.
        alpha: Exponent of the priorities; 0 = all alike.
        beta: Exponent of the weights; 1 corrects fully. May be changed at any time.
        refresh_s: Seconds between two reads of the store; 0 = read at every call of `sample`.

    Raises:
        InvalidArgument: `n_steps`, `gamma`, `alpha`, `beta` or `refresh_s` is out of its range.
        BufferMismatch: `optimize_memory_usage` is set, or SB3 has no buffer for the spaces.
    """

    observations: Any
    next_observations: Any

    @checked
    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        jam: HasConnection | None = None,
        run: RunNames | None = None,
        env_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        where: EpisodeTest | None = None,
        forks: bool = False,
        n_steps: int = 1,
        gamma: float = 0.99,
        prioritized: bool = False,
        alpha: float = 0.6,
        beta: float = 0.4,
        refresh_s: Seconds = 0.05,
    ) -> None:
        _check_range("n_steps", n_steps, 1)
        _check_range("gamma", gamma, 0, 1)
        _check_range("alpha", alpha, 0)
        _check_range("beta", beta, 0)
        if optimize_memory_usage:
            raise BufferMismatch(
                "JamboreeReplayBuffer gets the steps of many episodes mixed, and keeps both "
                "observations of each: optimize_memory_usage=False"
            )
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=1)
        self.buffer_size = max(buffer_size, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps, self.gamma, self.beta, self.refresh_s = n_steps, gamma, beta, refresh_s
        self._alpha = alpha
        self._asked = EpisodeFilter(run=run, env_id=env_id, tags=tags or {}, test=where)
        self._is_prioritized = prioritized
        self._has_forks = forks
        self._connection = None if jam is None else jam._connection
        self._allocate()

    def _allocate(self) -> None:
        rows = self.buffer_size, 1
        self.observations, self.next_observations = self._empty(), self._empty()
        dtype = self._maybe_cast_dtype(self.action_space.dtype)
        self.actions = np.zeros((*rows, self.action_dim), dtype)
        self.rewards, self.dones, self.timeouts = (np.zeros(rows, np.float32) for _ in range(3))
        self._succession = Succession(self.buffer_size)
        self._priorities = SumTree(self.buffer_size) if self._is_prioritized else None
        self._highest_priority = 1.0
        self.pos, self.full = 0, False
        self._refresh_at, self._is_away = -np.inf, False
        self._live: LiveSteps | None = None
        if self._connection is not None:
            of_buffer = self.observation_space, self.action_space
            self._live = LiveSteps(
                self._connection,
                self._asked,
                of_buffer,
                self.buffer_size,
                forks=self._has_forks,
            )

    def _empty(self) -> Any:
        shapes: Any = self.obs_shape
        if not isinstance(self.observation_space, spaces.Dict):
            return np.zeros((self.buffer_size, 1, *shapes), self.observation_space.dtype)
        parts = self.observation_space.spaces
        return {
            key: np.zeros((self.buffer_size, 1, *shape), parts[key].dtype)
            for key, shape in shapes.items()
        }

    def reset(self) -> None:
        """Drop all steps; the next refresh reads everything again."""
        self._allocate()

    def __getstate__(self) -> dict[str, Any]:
        """For `model.save_replay_buffer()`: what it holds, without where it came from."""
        return {**self.__dict__, "_connection": None, "_live": None, "_asked": None}

    @property
    def is_live(self) -> bool:
        """Whether it knows of a store; not where it was loaded from a file."""
        return self._live is not None

    # -- what comes -------------------------------------------------------------------------

    def add(self, *step: Any, **named: Any) -> None:
        """Keeps nothing: what the model's environment does comes through the store, once."""

    def refresh(self) -> int:
        """Look now at what has been recorded, also by this process.

        Returns:
            How many steps have come. Where others record faster than this reads, there may be more.

        Raises:
            BufferMismatch: An episode has other spaces, or was recorded above `VecNormalize`.
            UnsavedRecords: What this process has recorded cannot be brought to Redis.
            StoreUnavailable: Redis is away.
            DecodeError: Stored bytes are damaged; names key and index.
        """
        before = self._succession.count
        if self._live is not None:
            self._live.read_new(max(self.refresh_s, 0.01), self._add_batch)
        self._refresh_at = time.monotonic() + self.refresh_s
        return self._succession.count - before

    def _add_batch(self, batch: Batch) -> None:
        rows = self._succession.append(batch.ids, batch.counts, batch.is_over)
        if batch.steps is None:
            return
        steps = batch.steps.part(slice(len(batch.steps.rewards) - len(rows), None))
        assign(self.observations, rows, 0, steps.observations)
        assign(self.next_observations, rows, 0, steps.next_observations)
        self.actions[rows, 0] = steps.actions
        self.rewards[rows, 0] = steps.rewards
        self.dones[rows, 0] = steps.dones
        self.timeouts[rows, 0] = steps.timeouts if self.handle_timeout_termination else 0
        if self._priorities is not None:
            self._priorities[rows] = self._highest_priority**self._alpha
        self.full = self._succession.count >= self.buffer_size
        self.pos = self._succession.count % self.buffer_size

    def _refresh_if_due(self) -> None:
        if time.monotonic() < self._refresh_at:
            return
        try:
            self.refresh()
        except (StoreUnavailable, UnsavedRecords) as error:
            if not self.size():
                raise
            if not self._is_away:
                log.warning("%s; sampling continues with the %s steps here", error, self.size())
            self._is_away = True
            self._refresh_at = time.monotonic() + AWAY_S
            return
        if self._is_away:
            log.info("Redis answers again: sampling continues with what comes")
            self._is_away = False

    # -- what is drawn ----------------------------------------------------------------------

    @checked
    def sample(self, batch_size: Count, env: VecNormalize | None = None) -> Any:
        """Draw steps at random, with NumPy's global generator, as SB3's buffers do.

        Args:
            batch_size: How many.
            env: Normalises them.

        Returns:
            `ReplayBufferSamples`, for dict observations `DictReplayBufferSamples`; if prioritized,
            `PrioritizedSamples`.

        Raises:
            EpisodeNotFound: Nothing has been recorded yet.
            RunNotFound: Nothing has been recorded in the run; names those that there are.
            BufferMismatch: As `refresh`.
            StoreUnavailable: Redis is away, and nothing has been read yet.
        """
        self._refresh_if_due()
        self._check_filled()
        if self._priorities is None:
            return self._get_samples(np.random.randint(self.size(), size=batch_size), env)
        total = self._priorities.total
        parts = (np.arange(batch_size) + np.random.random(batch_size)) / batch_size
        rows = self._priorities.find(parts * total)
        odds = self._priorities[rows] / total
        weights = (self.size() * odds) ** -self.beta
        samples = self._get_samples(rows, env)
        return PrioritizedSamples(
            **samples._asdict(),
            weights=self.to_torch((weights / weights.max()).astype(np.float32)[:, None]),
            indices=self._numbers(rows),
        )

    def update_priorities(self, indices: Any, priorities: Any) -> None:
        """Set priorities, for TD errors say.

        Args:
            indices: `PrioritizedSamples.indices`; those of overwritten steps are ignored.
            priorities: (n,), array or tensor; their absolute values count.

        Raises:
            BufferMismatch: The buffer is not prioritized.
            InvalidArgument: A priority is NaN or infinite; all stay as they were.
        """
        if self._priorities is None:
            raise BufferMismatch("priorities are for a buffer that was made with prioritized=True")
        if isinstance(priorities, torch.Tensor):
            priorities = priorities.detach().cpu().numpy()
        numbers = np.asarray(indices, np.int64)
        values = np.abs(np.asarray(priorities, np.float64).reshape(-1)) + SMALLEST_PRIORITY
        if not np.isfinite(values).all():
            raise InvalidArgument("a priority is NaN or infinite: with it no step could be drawn")
        is_here = numbers >= self._succession.count - self.buffer_size
        self._priorities[numbers[is_here] % self.buffer_size] = values[is_here] ** self._alpha
        self._highest_priority = max(self._highest_priority, float(values.max(initial=0.0)))

    @checked
    def sample_windows(
        self, batch_size: Count, length: int, env: VecNormalize | None = None
    ) -> Any:
        """Draw windows of `length` consecutive steps of one episode, all with the same odds.

        Returns:
            As `sample`, without priorities; each tensor is (batch_size, length, ...).

        Raises:
            EpisodeNotFound: No episode in the buffer has that many steps.
            InvalidArgument: `batch_size` is negative, or `length` is below 1.
        """
        _check_range("length", length, 1)
        self._refresh_if_due()
        self._check_filled()
        windows = np.empty((0, length), np.int64)
        for _ in range(TRIES):
            drawn = np.random.randint(self.size(), size=2 * batch_size)
            found, counts = self._succession.windows(drawn, length)
            windows = np.concatenate([windows, found[counts == length]])
            if len(windows) >= batch_size:
                break
        else:
            found, counts = self._succession.windows(np.arange(self.size()), length)
            if not (counts == length).any():
                raise EpisodeNotFound(f"no episode of the {self.size()} steps here has {length}")
            windows = found[np.random.choice(np.flatnonzero(counts == length), batch_size)]
        rows = windows[:batch_size].reshape(-1)
        return self._samples(rows, rows, self._rewards(rows, env), env, (batch_size, length))

    def _get_samples(self, batch_inds: _Rows, env: VecNormalize | None = None) -> Any:
        """Steps of these rows; with `n_steps`, the discounted sum of rewards from there on."""
        rewards = self._rewards(batch_inds, env)
        if self.n_steps == 1:
            return self._samples(batch_inds, batch_inds, rewards, env, (len(batch_inds),))
        rows, counts = self._succession.windows(batch_inds, self.n_steps)
        numbers = np.arange(self.n_steps)
        factors = np.where(numbers < counts[:, None], self.gamma**numbers, 0).astype(np.float32)
        rewards = (self._rewards(rows, env) * factors).sum(axis=1)
        samples = self._samples(batch_inds, rows[:, -1], rewards, env, (len(batch_inds),))
        discounts = (self.gamma ** counts[:, None]).astype(np.float32)
        return samples._replace(discounts=self.to_torch(discounts, copy=False))

    def _samples(
        self,
        rows: _Rows,
        lasts: _Rows,
        rewards: npt.NDArray[Any],
        env: VecNormalize | None,
        shape: tuple[int, ...],
    ) -> Any:
        """Steps that begin at `rows` and end at `lasts`, as tensors of this shape."""
        dones = self.dones[lasts, 0] * (1 - self.timeouts[lasts, 0])
        is_dict = isinstance(self.observation_space, spaces.Dict)
        return (DictReplayBufferSamples if is_dict else ReplayBufferSamples)(
            self._observed(self.observations, rows, env, shape),
            self._tensor(self.actions[rows, 0], shape),
            self._observed(self.next_observations, lasts, env, shape),
            self._tensor(dones[:, None], shape),
            self._tensor(rewards[:, None], shape),
        )

    def _observed(
        self, arrays: Any, rows: _Rows, env: VecNormalize | None, shape: tuple[int, ...]
    ) -> Any:
        parts = self._normalize_obs(map_leaves(lambda array: array[rows, 0], arrays), env)
        return map_leaves(lambda part: self._tensor(part, shape), parts)

    def _tensor(self, array: Any, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor that shares memory with `array`, which nothing else refers to."""
        if len(shape) > 1:
            array = array.reshape(*shape, *array.shape[1:])
        return self.to_torch(array, copy=False)

    def _rewards(self, rows: _Rows, env: VecNormalize | None) -> npt.NDArray[Any]:
        return self._normalize_reward(self.rewards[rows, 0], env)

    def _numbers(self, rows: _Rows) -> _Rows:
        """The numbers of the steps in these rows."""
        count = self._succession.count
        return count - 1 - (count - 1 - rows) % self.buffer_size

    def _check_filled(self) -> None:
        if self.size():
            return
        if not self.is_live:
            raise EpisodeNotFound(
                "this buffer has no steps and knows of no store: give the model "
                "replay_buffer_kwargs=Unsaved(jam=jam, ...)"
            )
        if self._connection is not None:
            check_runs(self._connection, self._asked.runs or ())
        raise EpisodeNotFound(
            f"no steps of episodes({self._asked}) are recorded yet: begin their actors first, and "
            "record the model's own environment as well: jam.record(env, run=...)"
        )
