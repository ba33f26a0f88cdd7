"""`RecordEpisodes` for vector environments: an episode's log for each of their episodes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import uuid4

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from jamboree_gym.arrays.layout import as_array
from jamboree_gym.arrays.tensors import on_host
from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.environment.hidden_generators import hidden_state_of
from jamboree_gym.environment.outcomes import flags_of
from jamboree_gym.environment.provenance import class_name, rng_state_of
from jamboree_gym.environment.reward_spaces import check_held_rewards
from jamboree_gym.environment.sent_specs import fetch_specs, spec_of_parent
from jamboree_gym.errors import InvalidArgument, InvalidRecord
from jamboree_gym.recording.batch_packing import copied_batch
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.recording.options import RecordOptions
from jamboree_gym.recording.vector_recorder import VectorRecorder
from jamboree_gym.wrappers.recorded_sub_envs import RecordedSubEnvs
from jamboree_gym.wrappers.returned import of_reset, of_step
from jamboree_gym.wrappers.vector_infos import split_batch, split_infos

__all__ = [
    "RESET_MASK",
    "RecordEpisodes",
    "autoreset_mode",
    "leaves_autoresets",
    "steps_many",
]

# Up to this version a reset leaves a pending autoreset to the workers of an AsyncVectorEnv without
# shared memory: the step after it is ignored, and they are reset once more.
_LAST_THAT_LEAVES_AUTORESETS = (1, 4)
RESET_MASK = "reset_mask"
_OF_ENDS = ("final_obs", "final_info")
_OF_ENDS_ALONE = frozenset({*_OF_ENDS, *(f"_{name}" for name in _OF_ENDS)})
# The base of Gymnasium's `phys2d`, which do not say their mode.
_RESETS_NEXT_STEP = "gymnasium.envs.functional_jax_env.FunctionalJaxVectorEnv"

log = logging.getLogger(__name__)


class RecordEpisodes(RecordedSubEnvs, VectorWrapper):
    """Records every episode of every sub-environment; changes nothing of what is returned.

    In every autoreset mode, the recorded episodes are the same as if each sub-environment were
    stepped alone. The step that NEXT_STEP autoreset ignores is not recorded: it begins the next
    episode. A vector environment that does not say its mode is taken for NEXT_STEP, as by
    Gymnasium's own wrappers, or for SAME_STEP if the first end comes with `final_obs`; a warning
    says so.

    The seed of each sub-environment is recorded. Without a seed, the state of its generator just
    before the reset is recorded if the sub-environment lives in this process; otherwise the id of
    the episode before it.

    Example:
        >>> envs = RecordEpisodes(gym.make_vec("CartPole-v1", num_envs=4), jam, run="first")
        >>> observations, infos = envs.reset(seed=1)
        >>> results = envs.step(envs.action_space.sample())
        >>> len(jam.episode(envs.episode_ids[3]))
        1

    Args:
        env: A vector environment; also one of Isaac Lab, which is a `gymnasium.Env`. An
            `AsyncVectorEnv` is asked once for its specs.
        jam: Where to record. It stays open when the environment is closed.
        run: As for `jamboree_gym.wrappers.RecordEpisodes`, like the options that follow.
        tags: `{"lr": 3e-4, "branch": "main"}`.
        handler_class: `EpisodeHandler` or a subclass.
        record_infos: True, False or a list of keys.
        strict_infos: Whether an info that cannot be stored is an error.

    Raises:
        UnsupportedSpace: A space cannot be recorded; names it.
        InvalidRecord: A tag cannot be stored.
        InvalidArgument: The environment declares an autoreset mode that there is not, or will not
            tell the last observations of its episodes.
    """

    @checked
    def __init__(
        self,
        env: VectorEnv[Any, Any, Any] | gym.Env[Any, Any],
        jam: HasConnection,
        *,
        run: str | None = None,
        tags: Mapping[str, Any] | None = None,
        handler_class: type[EpisodeHandler] = EpisodeHandler,
        record_infos: bool | Collection[str] = True,
        strict_infos: bool = False,
    ) -> None:
        if isinstance(env, gym.Env):
            env = _ManyInOneEnv(env)
        known_mode = _known_mode(env)
        self._mode = known_mode or AutoresetMode.NEXT_STEP
        self._is_assumed = known_mode is None
        if self._is_assumed:
            log.warning("%s; it is taken for that", _unknown_mode(env, None))
        base = env.unwrapped
        _check_tensors(base, self._mode)
        if isinstance(base, SyncVectorEnv) and type(base).step is SyncVectorEnv.step:
            check_held_rewards(base.envs, "Gymnasium's SyncVectorEnv")
        self._recorder = VectorRecorder(
            jam,
            env.single_observation_space,
            env.single_action_space,
            _sub_envs(env),
            vector=_description(env, known_mode),
            options=RecordOptions(run, tags, handler_class, record_infos, strict_infos),
        )
        super().__init__(env)
        self._is_independent = _is_independent(env.unwrapped)
        self._leaves_autoresets = leaves_autoresets(env.unwrapped)
        self._awaits_autoreset = set[int]()

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the sub-environments, or those of `options["reset_mask"]`; their episodes begin.

        Raises:
            JamboreeError: As `step`.
        """
        self._recorder.is_closed = False
        self._recorder.admit()
        chosen = self._chosen(options)
        seeds = self._seeds(seed)
        rng_states = self._rng_states([i for i in chosen if seeds[i] is None])
        if not self._is_independent and seeds == [None] * self.num_envs:
            shared = _shared_state(self.env.unwrapped)
            rng_states = dict.fromkeys(chosen, shared) if shared is not None else rng_states
        kept_options = self._recorder.kept_options(_without_mask(options))
        awaited, self._awaits_autoreset = self._awaits_autoreset, set()
        with self._recorder.batch("reset") as call:
            # Gymnasium's own vector environments take a list, their base class declares an int.
            result = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
            call.returned = result
            batch, batched_infos = of_reset(result, self.num_envs)
            observations, infos = self._split(on_host(batch), batched_infos)
            for i in chosen:
                self._recorder.begin(
                    i,
                    observations[i],
                    infos[i],
                    seed=seeds[i],
                    rng_state=rng_states.get(i),
                    options=kept_options,
                )
            if not self._leaves_autoresets:
                awaited = awaited.difference(chosen)
            self._awaits_autoreset = awaited
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the sub-environments and record what they returned.

        Raises:
            StoreUnavailable, StoreFull: If its attribute `returned` is None, nothing has moved:
                repeat the call when Redis is back. Else, in `sync` and `fsync` mode, all have moved
                and Redis has not confirmed it. The steps wait in memory, the episodes continue: do
                not repeat the call, but take its result from `returned`.
            InvalidRecord: A step of one sub-environment cannot be recorded; its episode is
                abandoned. All have moved, as above.
        """
        self._recorder.admit()
        own_actions = copied_batch(actions)
        awaited, self._awaits_autoreset = self._awaits_autoreset, set()
        rng_states = self._rng_states(sorted(awaited)) if awaited else {}
        with self._recorder.batch() as call:
            result = call.returned = self.env.step(actions)
            batch, rewards, terminations, truncations, infos = of_step(result, self.num_envs)
            self._record(
                own_actions,
                on_host(batch),
                on_host(rewards),
                on_host(terminations),
                on_host(truncations),
                self._recorded_infos(infos),
                awaited=awaited,
                rng_states=rng_states,
            )
            self._awaits_autoreset = awaited
        return result

    def _record(
        self,
        own_actions: Any,
        batch: Any,
        rewards: Any,
        terminations: Any,
        truncations: Any,
        batched_infos: dict[str, Any],
        *,
        awaited: set[int],
        rng_states: Mapping[int, Mapping[str, Any]],
    ) -> None:
        """Record the result of a step; update `awaited` to what the next step resets."""
        size = self.num_envs
        terminated, refused = flags_of("terminations", terminations, size)
        truncated, also_refused = flags_of("truncations", truncations, size)
        refused = {**also_refused, **refused}
        ends = terminated | truncated
        ended = set(ends.nonzero()[0].tolist())
        if self._is_assumed and ended:
            self._learn_mode(batched_infos)
        split = self._split_infos(batched_infos)
        special = self._record_together(
            own_actions,
            batch,
            rewards,
            terminated,
            truncated,
            split,
            ended=ended,
            awaited=awaited,
            rng_states=rng_states,
            refused=refused,
        )
        if not special:
            return
        observations, infos = self._split(batch, split or batched_infos)
        actions = split_batch(self.action_space, own_actions, self.num_envs)
        for i in sorted(special):
            try:
                if i in awaited:
                    awaited.discard(i)
                    self._recorder.begin(i, observations[i], infos[i], rng_state=rng_states.get(i))
                elif i in refused:
                    self._recorder.miss(i, refused[i])
                elif not ends[i]:
                    info = self._without_final(infos[i])
                    outcome = (rewards[i], False, False)
                    self._recorder.step(i, actions[i], observations[i], *outcome, info)
                else:
                    outcome = (rewards[i], bool(terminated[i]), bool(truncated[i]))
                    if self._end(i, (actions[i], *outcome), observations[i], infos[i]):
                        awaited.add(i)
            except Exception as error:  # noqa: BLE001 - raised by `batch`
                self._recorder.miss(i, error)

    def _learn_mode(self, infos: Any) -> None:
        """The first episode ends: up to here, the mode made no difference."""
        self._is_assumed = False
        if isinstance(infos, Mapping) and _OF_ENDS[0] in infos:
            self._mode = AutoresetMode.SAME_STEP
            log.info("%s resets in the same step: an end came with `final_obs`", self.env)

    def _record_together(
        self,
        own_actions: Any,
        batch: Any,
        rewards: Any,
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        infos: Sequence[Any] | None,
        *,
        ended: set[int],
        awaited: set[int],
        rng_states: Mapping[int, Mapping[str, Any]],
        refused: Collection[int],
    ) -> Collection[int]:
        """Record what is plain of a step; update `awaited` where that ends an episode.

        `infos` are those of `_split_infos`.

        Returns:
            The sub-environments whose step is not recorded by this.
        """
        recorder, is_same_step = self._recorder, self._mode is AutoresetMode.SAME_STEP
        if infos is not None:
            recorder.leave_blocks()
            own = enumerate(map(self._without_final, infos))
            shares = {i: info for i, info in own if info.__class__ is not dict or info}
            special = {*ended, *refused, *awaited}
            return self._record_plain(own_actions, batch, rewards, special, shares)
        alone = ended.union(refused) if is_same_step else set(refused)
        resets = {i: rng_states.get(i) for i in awaited - alone}
        left = recorder.step_together(
            own_actions,
            batch,
            rewards,
            terminated,
            truncated,
            ended=ended - awaited - alone,
            resets=resets,
            alone=alone,
        )
        if left is not None:
            awaited.difference_update(resets.keys() - left)
            if self._mode is AutoresetMode.NEXT_STEP:
                awaited.update(ended - resets.keys() - set(left))
            return left
        return self._record_plain(own_actions, batch, rewards, {*ended, *refused, *awaited}, {})

    def _record_plain(
        self,
        own_actions: Any,
        batch: Any,
        rewards: Any,
        special: Collection[int],
        infos: Mapping[int, Mapping[str, Any]],
    ) -> Collection[int]:
        """As `_record_together`, without blocks."""
        packed_actions = self._recorder.pack_actions(own_actions)
        if packed_actions is not None and self._recorder.step_plain(
            packed_actions, batch, rewards, special, infos
        ):
            return special
        return range(self.num_envs)

    def _without_final(self, info: Any) -> Any:
        """What SAME_STEP says of ends is for those that have ended, even if it is given to all."""
        if self._mode is not AutoresetMode.SAME_STEP or info.__class__ is not dict:
            return info
        return {name: info[name] for name in info if name not in _OF_ENDS}

    def _end(
        self, i: int, outcome: tuple[Any, Any, bool, bool], observation: Any, info: dict[str, Any]
    ) -> bool:
        """Record a last step, and the reset that SAME_STEP has already made after it.

        Returns:
            Whether the next step resets.
        """
        action, reward, terminated, truncated = outcome
        if self._mode is not AutoresetMode.SAME_STEP:
            self._recorder.step(i, action, observation, reward, terminated, truncated, info)
            return self._mode is AutoresetMode.NEXT_STEP
        own, info = info, self._without_final(info)
        final_info = own.get("final_info") or {}
        if "final_obs" in own:
            final = own["final_obs"]
            self._recorder.step(i, action, final, reward, terminated, truncated, final_info)
        else:
            missing = "the last observation is not in infos['final_obs']"
            self._recorder.miss(i, InvalidRecord(missing))
        self._recorder.begin(i, observation, info)
        return False

    def _split(self, observations: Any, infos: Any) -> tuple[Sequence[Any], Any]:
        """The parts of a batch, one for each sub-environment."""
        num_envs = self.num_envs
        return (
            split_batch(self.observation_space, observations, num_envs),
            _NoInfos() if infos is None or not len(infos) else split_infos(infos, num_envs),
        )

    def _split_infos(self, infos: Any) -> Sequence[Any] | None:
        """The infos of a step, one for each sub-environment; None if they say nothing of it."""
        if infos is None or not len(infos):
            return None
        is_same_step = self._mode is AutoresetMode.SAME_STEP
        if is_same_step and infos.__class__ is dict and _OF_ENDS_ALONE.issuperset(infos):
            return None
        return split_infos(infos, self.num_envs)

    def _recorded_infos(self, infos: Any) -> Any:
        """What is recorded of infos, and what SAME_STEP says of ends."""
        keys = self._recorder.info_keys
        if keys is None or infos.__class__ is not dict:
            return infos
        kept = {*_OF_ENDS_ALONE, *keys, *(f"_{key}" for key in keys)}
        return {name: value for name, value in infos.items() if name in kept}

    def _chosen(self, options: Mapping[str, Any] | None) -> list[int]:
        """Which sub-environments a reset with these options is for."""
        everyone = range(self.num_envs)
        if not isinstance(options, Mapping) or RESET_MASK not in options:
            return list(everyone)
        mask = as_array(options[RESET_MASK])
        if mask is None or mask.shape != (self.num_envs,):
            return []
        return [i for i in everyone if mask[i]]

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """The seed that each sub-environment gets; of one generator for all, the one it gets."""
        if seed is None or isinstance(seed, (int, np.integer)):
            steps = range(self.num_envs) if self._is_independent else [0] * self.num_envs
            return [None if seed is None else int(seed) + step for step in steps]
        seeds = [None if one is None else int(one) for one in seed]
        return seeds if len(seeds) == self.num_envs else [None] * self.num_envs

    def _rng_states(self, indices: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        """States of the generators of these sub-environments, as far as they are within reach."""
        base = self.env.unwrapped
        if not isinstance(base, SyncVectorEnv):
            return {}
        states = {i: rng_state_of(base.envs[i]) for i in indices}
        return {i: state for i, state in states.items() if state is not None}


def _shared_state(base: VectorEnv[Any, Any, Any]) -> Mapping[str, Any] | None:
    """State of the one generator of a vector environment of Gymnasium's own, or of one of JAX."""
    hidden = hidden_state_of(base)
    if not hidden and not type(base).__module__.startswith("gymnasium."):
        return None
    generator = base.np_random
    is_known = isinstance(generator, np.random.Generator)
    state = generator.bit_generator.state if is_known else {}
    return {**state, **hidden} or None


class _NoInfos:
    """A new empty info for each sub-environment."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {}


def steps_many(env: gym.Env[Any, Any]) -> bool:
    """Whether an environment says that it is many: those of Isaac Lab are no `VectorEnv`."""
    return bool(getattr(env.unwrapped, "is_vector_env", False))


class _ManyInOneEnv(VectorEnv[Any, Any, Any]):
    """A `gymnasium.Env` that steps many environments at once (Isaac Lab's), as a `VectorEnv`."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        base: Any = env.unwrapped
        if not steps_many(env):
            raise InvalidArgument(
                f"{env} is a single environment: record it by jam.record(env), or by "
                "jamboree_gym.wrappers.RecordEpisodes"
            )
        self._env = env
        self.num_envs, self.metadata, self.spec = base.num_envs, env.metadata, env.spec
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.single_observation_space = base.single_observation_space
        self.single_action_space = base.single_action_space
        self.render_mode = env.render_mode

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        return self._env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        return self._env.step(actions)

    def render(self) -> Any:
        return self._env.render()

    def close(self, **_: Any) -> None:
        self._env.close()

    @property
    def unwrapped(self) -> Any:
        return self._env.unwrapped

    def __repr__(self) -> str:
        return repr(self._env)

    def __del__(self) -> None:
        """As any `gymnasium.Env`, it is not closed by this."""


def _check_tensors(base: Any, mode: AutoresetMode) -> None:
    """Refuse what would be refused at its first step, or at its first end.

    Raises:
        InvalidArgument: Its tensors have no numbers, or it drops last observations.
    """
    device = getattr(base, "device", None)
    if getattr(device, "type", device) == "meta":
        raise InvalidArgument(
            f"{base} is on the device 'meta', whose tensors have no numbers that could be "
            "recorded: make it on 'cpu' or 'cuda'"
        )
    computes_final = getattr(getattr(base, "cfg", None), "compute_final_obs", True)
    if mode is AutoresetMode.SAME_STEP and computes_final is False:
        raise InvalidArgument(
            f"{base} does not tell the last observation of an episode, which is recorded: set "
            "compute_final_obs=True in its configuration"
        )


def autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Which steps reset.

    Raises:
        InvalidArgument: The environment does not say.
    """
    mode = _known_mode(env)
    if mode is None:
        raise InvalidArgument(_unknown_mode(env, None))
    return mode


def _known_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode | None:
    """Which steps reset; None if the environment does not say.

    Raises:
        InvalidArgument: It says something else.
    """
    base, metadata = env.unwrapped, env.metadata
    mode = metadata.get("autoreset_mode")
    if metadata is base.metadata:  # gymnasium 1.1 shares it between vector environments
        mode = getattr(base, "autoreset_mode", mode)
    if mode is None and any(class_name(one) == _RESETS_NEXT_STEP for one in type(base).__mro__):
        return AutoresetMode.NEXT_STEP
    try:
        return None if mode is None else AutoresetMode(mode)
    except ValueError as error:
        raise InvalidArgument(_unknown_mode(env, mode)) from error


def _unknown_mode(env: VectorEnv[Any, Any, Any], mode: Any) -> str:
    return (
        f"{env} does not say in metadata['autoreset_mode'] which steps reset, but {mode!r}; "
        "where that is the step after an end: envs.metadata = {**envs.metadata, "
        "'autoreset_mode': gymnasium.vector.AutoresetMode.NEXT_STEP}"
    )


def _is_independent(base: VectorEnv[Any, Any, Any]) -> bool:
    """Whether each sub-environment is a separate one, as gymnasium.make gives it."""
    own_worker = getattr(base, "worker", None)
    if own_worker and type(base).__module__.startswith("mo_gymnasium."):
        own_worker = None  # it differs from Gymnasium's in the shape of rewards
    return isinstance(base, (SyncVectorEnv, AsyncVectorEnv)) and not own_worker


def leaves_autoresets(base: VectorEnv[Any, Any, Any]) -> bool:
    """Whether a reset leaves a pending autoreset pending."""
    version = tuple(int(part) for part in gym.__version__.split(".")[:2])
    return (
        isinstance(base, AsyncVectorEnv)
        and not base.shared_memory
        and version <= _LAST_THAT_LEAVES_AUTORESETS
    )


def _sub_envs(env: VectorEnv[Any, Any, Any]) -> list[gym.Env[Any, Any] | EnvSpec | None]:
    base = env.unwrapped
    if isinstance(base, SyncVectorEnv):
        return list(base.envs)
    if isinstance(base, AsyncVectorEnv):
        specs = fetch_specs(base.call, base.get_attr)
        return [spec or spec_of_parent(base.spec) for spec in specs]
    return [env.spec] * env.num_envs


def _description(env: VectorEnv[Any, Any, Any], mode: AutoresetMode | None) -> dict[str, Any]:
    """The provenance of the vector environment; without a mode, where it does not say one."""
    wrappers, base = [], env
    while isinstance(base, VectorWrapper):
        wrappers.append(class_name(type(base)))
        base = base.env
    is_independent = _is_independent(base)
    # Its episodes depend on each other: the name of this recording finds them.
    recording = {} if is_independent else {"recording": uuid4().hex}
    return {
        **recording,
        "class": class_name(type(base)),
        "num_envs": base.num_envs,
        "autoreset_mode": None if mode is None else mode.value,
        "reward_dtype": np.dtype(np.float64).str,
        "wrappers": wrappers,
        "independent": is_independent,
    }


def _without_mask(options: Any) -> Any:
    if not isinstance(options, Mapping):
        return options
    return {name: value for name, value in options.items() if name != RESET_MASK}
