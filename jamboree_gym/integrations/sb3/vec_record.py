"""`VecRecordEpisodes`: an episode's log for each environment of a Stable-Baselines3 VecEnv."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from inspect import getmembers
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.environment.outcomes import flag_of
from jamboree_gym.environment.provenance import DONE_AND_TRUNCATED, class_name, rng_state_of
from jamboree_gym.environment.reward_spaces import check_held_rewards
from jamboree_gym.environment.sent_specs import fetch_specs
from jamboree_gym.errors import InvalidRecord
from jamboree_gym.recording.batch_packing import copied_batch
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.recording.vector_recorder import VectorRecorder
from jamboree_gym.wrappers.recorded_sub_envs import RecordedSubEnvs
from jamboree_gym.wrappers.returned import checked_info

__all__ = ["VecRecordEpisodes", "vec_env_chain"]

_LAST_OBSERVATION = "terminal_observation"
_TRUNCATED = "TimeLimit.truncated"
_NO_INFO = {_TRUNCATED: False}  # SB3 adds this to each info
_BOOL = np.dtype(np.bool_)


class VecRecordEpisodes(RecordedSubEnvs, VecEnvWrapper):
    """Records every episode of every environment; changes nothing of what is returned.

    A VecEnv resets an environment in the same step that ends its episode. So the episode's last
    observation comes from `terminal_observation`, and the next episode begins with the observation
    that the step returned. `terminal_observation` and `TimeLimit.truncated` are not recorded as
    infos, because the VecEnv adds them, not the environment.

    The seeds of `venv.seed(...)` and the options of `set_options(...)` are recorded with the
    episodes that the next reset begins. A reset within a step has no seed: such an episode names
    the episode before it.

    Example:
        >>> venv = VecRecordEpisodes(make_vec_env("CartPole-v1", n_envs=4, seed=1), jam)
        >>> PPO("MlpPolicy", venv).learn(10_000)

    Args:
        venv: A VecEnv. What passes through is recorded: above a `VecNormalize`, that is what it
            returns. If its environments live in other processes, it asks for their specs once.
        jam: Where to record. It stays open when the VecEnv is closed.
        run: As for `jamboree_gym.wrappers.RecordEpisodes`, like the options that follow.
        tags: `{"lr": 3e-4, "branch": "main"}`.
        handler_class: `EpisodeHandler` or a subclass.
        record_infos: True, False or a list of keys.
        strict_infos: Whether an info that cannot be stored is an error.

    Raises:
        UnsupportedSpace: A space cannot be recorded; names it.
        InvalidRecord: A tag cannot be stored; names it.
    """

    @checked
    def __init__(
        self,
        venv: VecEnv,
        jam: HasConnection,
        *,
        run: str | None = None,
        tags: Mapping[str, Any] | None = None,
        handler_class: type[EpisodeHandler] = EpisodeHandler,
        record_infos: bool | Collection[str] = True,
        strict_infos: bool = False,
    ) -> None:
        base = _base(venv)
        if type(base).step_wait is DummyVecEnv.step_wait:
            check_held_rewards(_envs_here(base) or (), "SB3's DummyVecEnv")
        super().__init__(venv)
        self._recorder = VectorRecorder(
            jam,
            venv.observation_space,
            venv.action_space,
            _sub_envs(venv),
            vector=_description(venv),
            options=RecordOptions(run, tags, handler_class, record_infos, strict_infos),
        )
        self._packed_actions: Sequence[Any] | None = None  # of the step in progress
        self._actions: Any = None  # the same, if they could not be packed

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied; SB3 finds the members of the class again."""
        return {name: vars(self)[name] for name in vars(self) if name != "class_attributes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be that."""
        vars(self).update(state)
        self.class_attributes = dict(getmembers(type(self)))

    def reset(self) -> VecEnvObs:
        """Reset all environments and begin a new episode in each.

        Raises:
            JamboreeError: As `step_async` and `step_wait`.
        """
        self._recorder.is_closed = False
        self._recorder.admit()
        base = _base(self.venv)
        seeds = [
            None if seed is None else int(seed) for seed in self._attribute_of_each("_seeds", None)
        ]
        options = [
            self._recorder.kept_options(_without_empty(one))
            for one in self._attribute_of_each("_options", {})
        ]
        rng_states = [_rng_state(base, i) if seed is None else None for i, seed in enumerate(seeds)]
        with self._recorder.batch("reset") as call:
            observations = call.returned = self.venv.reset()
            for i, info in enumerate(self._attribute_of_each("reset_infos", {})):
                self._recorder.begin(
                    i,
                    _part(observations, i),
                    info,
                    seed=seeds[i],
                    rng_state=rng_states[i],
                    options=options[i],
                )
        return observations

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Begin a step.

        Raises:
            StoreUnavailable: `max_pending_bytes` wait for a Redis that does not answer, and the
                Jamboree was opened with `when_full="raise"`. No environment has moved: repeat the
                step when Redis is back.
        """
        recorder = self._recorder
        recorder.admit()
        self._packed_actions = None if recorder.has_blocks else recorder.pack_actions(actions)
        self._actions = copied_batch(actions) if self._packed_actions is None else None
        try:
            self.venv.step_async(actions)
        except BaseException as error:
            recorder.lose_track("step", error, None)
            raise

    def step_wait(self) -> VecEnvStepReturn:
        """Finish a step and record what it returned.

        Raises:
            StoreUnavailable, StoreFull: In `sync` and `fsync` mode, Redis has not confirmed it. All
                environments have moved; the steps wait in memory and the episodes continue. Do not
                repeat the step: what it returned is in the error's attribute `returned`.
            InvalidRecord: A step of one environment cannot be recorded; its episode is abandoned.
                All have moved, as above.
        """
        recorder, packed_actions, result = self._recorder, self._packed_actions, None
        try:
            result = self.venv.step_wait()
            observations, rewards, dones, infos = result
            special, shares = _apart(dones, infos, self.num_envs)
            if packed_actions is not None:
                if not recorder.step_plain(packed_actions, observations, rewards, special, shares):
                    special = range(self.num_envs)
            else:
                no_ends = np.zeros(self.num_envs, np.bool_)  # these are `special`
                alone = {*special, *shares}
                left = recorder.step_together(
                    self._actions, observations, rewards, no_ends, no_ends, alone=alone
                )
                special = range(self.num_envs) if left is None else left
            if special:
                self._record_each(special, observations, rewards, dones, infos)
        except BaseException as error:
            recorder.lose_track("step", error, result)
            raise
        if recorder.errors:
            recorder.raise_errors("step", result)
        return result

    def _record_each(
        self, indices: Collection[int], observations: Any, rewards: Any, dones: Any, infos: Any
    ) -> None:
        """Record a step of these environments, and the resets of those that have ended."""
        reset_infos: Sequence[Any] | None = None
        for i, (reward, done) in enumerate(zip(rewards, dones, strict=True)):
            if i not in indices:
                continue
            try:
                is_done = flag_of("done", done)
            except InvalidRecord as error:
                self._recorder.miss(i, error)
                continue
            try:
                # SB3 itself asks only for the infos that are there.
                info = infos[i] if i < len(infos) else {}
                self._record(i, _part(observations, i), reward, is_done, info)
            except Exception as error:  # noqa: BLE001 - raised by `step_wait`
                self._recorder.miss(i, error)
            if is_done:
                if reset_infos is None:
                    reset_infos = self._attribute_of_each("reset_infos", {})
                self._recorder.begin(i, _part(observations, i), reset_infos[i])

    def _record(self, i: int, observation: Any, reward: Any, done: bool, info: Any) -> None:
        """Record a step of one environment."""
        info = checked_info(info)
        own = _own(info)
        packed_actions = self._packed_actions
        if packed_actions is None:
            action = self._actions[i]
        else:
            action = self._recorder.unpacked_action(packed_actions[i])
        if not done:
            self._recorder.step(i, action, observation, reward, False, False, own)
            return
        truncated = bool(info.get(_TRUNCATED, False))
        if _LAST_OBSERVATION in info:
            last = info[_LAST_OBSERVATION]
            self._recorder.step(i, action, last, reward, not truncated, truncated, own)
        else:
            missing = f"the last observation is not in infos[{_LAST_OBSERVATION!r}]"
            self._recorder.miss(i, InvalidRecord(missing))

    def _attribute_of_each(self, name: str, nothing: Any) -> Sequence[Any]:
        """What the VecEnv has under this name for each environment, if it is like SB3's own."""
        found = getattr(_base(self.venv), name, None)
        is_known = isinstance(found, (list, tuple)) and len(found) == self.num_envs
        return list(found or ()) if is_known else [nothing] * self.num_envs

    @property
    def reset_infos(self) -> Any:
        """The infos of the newest resets: those of the VecEnv below."""
        found = getattr(_base(self.venv), "reset_infos", None)
        return self._own_reset_infos if found is None else found

    @reset_infos.setter
    def reset_infos(self, infos: Any) -> None:
        self._own_reset_infos = infos

    def __getattr__(self, name: str) -> Any:
        """As every wrapper, that of the VecEnv below; of our own, why it is not there yet."""
        if name == "episode_ids":
            return self._recorder.episode_ids
        if name in ("venv", "_recorder"):  # not set yet
            raise AttributeError(name)
        try:
            return super().__getattr__(name)
        except AttributeError:
            if isinstance(self.venv, VecEnv) and type(self.venv).unwrapped is VecEnv.unwrapped:
                raise
            return getattr(self.venv, name)  # SB3 looks into nothing but its own


def _apart(
    dones: Any, infos: Any, size: int
) -> tuple[Collection[int], Mapping[int, Mapping[str, Any]]]:
    """The environments whose step is not plain, as it ends an episode, and the infos of the others.

    Infos that have nothing of the environment's own are left out.
    """
    is_usual = dones.__class__ is np.ndarray and dones.dtype is _BOOL and dones.shape == (size,)
    if not is_usual or infos.__class__ not in (list, tuple) or len(infos) != size:
        return range(size), {}
    flags = dones.tolist()
    try:
        if True not in flags and infos.count(_NO_INFO) == size:
            return (), {}
    except Exception:  # noqa: BLE001 - whatever the values of an info say to a comparison
        return range(size), {}
    special, shares = [], {}
    for i, info in enumerate(infos):
        if flags[i] or info.__class__ is not dict:
            special.append(i)
        elif own := _own(info):
            shares[i] = own
    return special, shares


def _own(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an info has of the environment's own."""
    if _TRUNCATED in info or _LAST_OBSERVATION in info:
        own = dict(info)  # to copy all takes less time than to choose
        own.pop(_LAST_OBSERVATION, None)
        own.pop(_TRUNCATED, None)
        return own
    return info


def _part(observations: Any, i: int) -> Any:
    """The observation of one environment in a batch."""
    if isinstance(observations, dict):
        return {name: values[i] for name, values in observations.items()}
    if isinstance(observations, tuple):
        return tuple(values[i] for values in observations)
    return observations[i]


def _without_empty(options: Any) -> Any:
    """The options of a reset; None instead of an empty dict."""
    return None if isinstance(options, Mapping) and not options else options


def vec_env_chain(venv: VecEnv) -> Iterator[VecEnv]:
    """Wrappers, outermost first, and the VecEnv."""
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv
    yield venv


def _base(venv: VecEnv) -> VecEnv:
    """The VecEnv below all wrappers; its own `unwrapped` may be something else."""
    return list(vec_env_chain(venv))[-1]


def _envs_here(base: VecEnv) -> Sequence[gym.Env[Any, Any]] | None:
    """The environments of a VecEnv that steps them in this process."""
    envs = getattr(base, "envs", None) if isinstance(base, DummyVecEnv) else None
    is_all = isinstance(envs, list) and len(envs) == base.num_envs
    return envs if is_all and all(isinstance(env, gym.Env) for env in envs or ()) else None


def _rng_state(base: VecEnv, i: int) -> Mapping[str, Any] | None:
    envs = _envs_here(base)
    return None if envs is None else rng_state_of(envs[i])


def _sub_envs(venv: VecEnv) -> Sequence[gym.Env[Any, Any] | EnvSpec | None]:
    base = _base(venv)
    envs = _envs_here(base)
    if envs is not None:
        return envs
    if isinstance(base, SubprocVecEnv) and hasattr(base, "remotes"):
        return fetch_specs(base.env_method, base.get_attr)
    return [None] * venv.num_envs


def _description(venv: VecEnv) -> dict[str, Any]:
    """The provenance of the VecEnv."""
    *wrappers, base = vec_env_chain(venv)
    rewards = getattr(base, "buf_rews", None) if isinstance(base, DummyVecEnv) else None
    rewards = np.empty(0) if rewards is None else rewards
    return {
        "class": class_name(type(base)),
        "num_envs": venv.num_envs,
        "autoreset_mode": AutoresetMode.SAME_STEP.value,
        "ends": DONE_AND_TRUNCATED,
        "reward_dtype": rewards.dtype.str,
        "wrappers": [class_name(type(one)) for one in wrappers],
        "independent": _envs_here(base) is not None or isinstance(base, SubprocVecEnv),
    }
