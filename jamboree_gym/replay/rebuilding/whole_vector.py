"""Plays a whole vector environment again, where its sub-environments cannot stand alone.

They may share one random generator (Gymnasium's `CartPoleVectorEnv`), or live in an emulator of
their own (ale-py's `AtariVectorEnv`). So all of them are played from their common reset, with the
recorded actions of each, and one of them is shown as an environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from jamboree_gym.arrays.tensors import on_host
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.environment.arguments import arguments_from_json, unkept
from jamboree_gym.environment.references import resolved
from jamboree_gym.errors import DecodeError, ReplayError
from jamboree_gym.reading.bulk_read import WholeEpisode, trips, whole_episodes
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.query import EpisodeQuery
from jamboree_gym.replay.rebuilding.named_modules import check_arguments
from jamboree_gym.replay.rebuilding.rebuild import put_generators
from jamboree_gym.replay.rebuilding.wrapping import damaged
from jamboree_gym.replay.verification.compare import recorded_actions
from jamboree_gym.wrappers.vector_infos import split_batch, split_infos

__all__ = ["OneOfVector", "is_played_whole", "one_of_vector"]

_MODES = {AutoresetMode.NEXT_STEP.value: 1, AutoresetMode.SAME_STEP.value: 0}
"""How many steps of a vector environment are ignored between two episodes."""


_NO_SEED = (
    "without a seed, and the state of its generator is not within reach\n"
    "give each reset that you call a seed: envs.reset(seed=...)"
)


class _Part(NamedTuple):
    """An episode of one sub-environment, and the step of the vector environment it begins at."""

    begin: int
    episode: WholeEpisode
    actions: Sequence[Any]


def is_played_whole(provenance: Mapping[str, Any]) -> bool:
    """Whether an episode can only be played with those of the other sub-environments."""
    vector = provenance.get("vector")
    return isinstance(vector, Mapping) and isinstance(vector.get("recording"), str)


def one_of_vector(
    episode: Episode, provenance: Mapping[str, Any], *, trust_entry_point: bool = False
) -> OneOfVector:
    """The sub-environment of an episode, within the whole vector environment.

    Raises:
        ReplayError: The vector environment cannot be made again, or an episode of it is missing.
    """
    try:
        vector, spec = provenance["vector"], provenance["env_spec"]
        size, mode, wrappers = vector["num_envs"], vector["autoreset_mode"], vector["wrappers"]
        if spec is None:
            raise ReplayError(
                f"the {vector['class']} was not made by gymnasium.make_vec, so that it cannot be "
                "made again\nrecord each environment inside it instead: jam.record(env)"
            )
        if wrappers:
            raise ReplayError(
                f"the episode was recorded above {wrappers[0]}, which cannot be rebuilt: record "
                "below it"
            )
        if mode is None:
            raise ReplayError(
                f"{vector['class']} does not say which steps reset, so it cannot be played again\n"
                "set envs.metadata['autoreset_mode'] before you record it"
            )
        ignored = _MODES[mode]
        parts = _parts(episode, int(size), ignored)
        env = _made(spec, int(size), trust_entry_point=trust_entry_point)
    except (AttributeError, DecodeError, KeyError, TypeError, ValueError) as error:
        raise damaged(error) from error
    return OneOfVector(env, parts, episode.id, is_same_step=not ignored)


def _made(
    spec: Mapping[str, Any], size: int, *, trust_entry_point: bool
) -> VectorEnv[Any, Any, Any]:
    name, missing = str(spec["id"]), unkept(spec)
    arguments = arguments_from_json(spec)
    mode = arguments.pop("vectorization_mode", None)
    arguments.pop("num_envs", None)
    if ":" in name or name not in gym.registry:
        raise ReplayError(f"{name!r} is not registered here. Import the package that registers it.")
    if missing is not None or "wrappers" in arguments:
        raise ReplayError(f"the vector environment cannot be made again: {missing or 'wrappers='}")
    if mode != "vector_entry_point":
        raise ReplayError(f"a vector environment of mode {mode!r} cannot be made again")
    if not trust_entry_point:
        check_arguments(arguments, name, gym.registry[name].kwargs)
    try:
        made: VectorEnv[Any, Any, Any] = gym.make_vec(
            name,
            num_envs=size,
            vectorization_mode=mode,
            **resolved(arguments, name, gym.registry[name].kwargs, trust=trust_entry_point),
        )
    except ReplayError:
        raise
    except Exception as error:
        raise ReplayError(f"{name} cannot be made here: {error}") from error
    return made


# -- who is where in which step ---------------------------------------------------------------


def _parts(episode: Episode, size: int, ignored: int) -> list[list[_Part]]:
    """The episodes of each sub-environment since the reset that the episode comes from."""
    chains = _chains(episode, size)
    own = next(chain for chain in chains if any(one.id == episode.id for one in chain))
    roots = [[at for at, one in enumerate(chain) if one.origin.follows is None] for chain in chains]
    at = next(at for at, one in enumerate(own) if one.id == episode.id)
    number = sum(one.origin.follows is None for one in own[: at + 1]) - 1
    if number < 0 or len({len(one) for one in roots}) > 1:
        raise ReplayError(
            f"the first episodes that {episode.id!r} and those beside it come from are missing"
        )
    parts = []
    for chain, begins in zip(chains, roots, strict=True):
        stop = begins[number + 1] if number + 1 < len(begins) else len(chain)
        parts.append(list(_placed(chain[begins[number] : stop], ignored)))
    origins = [one[0].episode.origin for one in parts]
    resets = {encode_value([one.seed, one.rng_state]) for one in origins}
    if len(resets) > 1 or (origins[0].seed is None and origins[0].rng_state is None):
        raise ReplayError(f"the vector environment was reset: {_NO_SEED}")
    return parts


def _chains(episode: Episode, size: int) -> list[list[WholeEpisode]]:
    """The episodes of each sub-environment, oldest first."""
    connection, summary = episode._connection, episode.summary
    digest = episode.origin.provenance
    listed = EpisodeQuery(connection).where(run=summary.run, env_id=summary.env_id).summaries()
    indices = {one.id: one.vector_index for one in listed if one.vector_index is not None}
    chains: list[list[WholeEpisode]] = [[] for _ in range(size)]
    beside = [one for one in listed if one.id in indices]
    for trip, _ in trips(connection, sorted(beside, key=lambda one: (one.started_at, one.id))):
        for decode in whole_episodes(connection, [one.id for one in trip]):
            whole = decode()
            if whole.origin.provenance == digest:
                chains[indices[whole.id] or 0].append(whole)
    return chains


def _placed(chain: Sequence[WholeEpisode], ignored: int) -> Iterator[_Part]:
    begin, before = 0, None
    for one in chain:
        if before is not None and one.origin.follows != before.id:
            raise ReplayError(
                f"episode {one.id!r} follows {one.origin.follows!r}, which is not there any more"
            )
        if before is not None and before.status not in ("terminated", "truncated"):
            raise ReplayError(f"the vector environment was reset after {before.id!r}: {_NO_SEED}")
        actions = list(recorded_actions(one.rows))
        yield _Part(begin, one, actions)
        begin, before = begin + len(actions) + ignored, one


# -- the environment --------------------------------------------------------------------------


class OneOfVector(gym.Env[Any, Any]):
    """One sub-environment; the others take their recorded actions.

    Args:
        envs: The vector environment, just made.
        parts: The episodes of each sub-environment.
        id: The episode that is played again.
        is_same_step: Whether an end and the reset after it are one step.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        parts: Sequence[Sequence[_Part]],
        id: str,
        *,
        is_same_step: bool,
    ) -> None:
        self._envs = envs
        self._parts = parts
        self._is_same_step = is_same_step
        found = [(i, one) for i, chain in enumerate(parts) for one in chain]
        self._index, self._own = next((i, one) for i, one in found if one.episode.id == id)
        self._at = 0
        self._filler = envs.single_action_space.sample()
        self.observation_space = envs.single_observation_space
        self.action_space = envs.single_action_space

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        """Play everything up to the beginning of the episode."""
        origin = self._parts[0][0].episode.origin
        options = None if origin.options is None else dict(origin.options)
        try:
            if origin.rng_state is not None:
                put_generators(self._envs, origin.rng_state)
            observations, infos = self._envs.reset(seed=origin.seed, options=options)
            self._at = 0
            while self._at < self._own.begin:
                observations, _, _, _, infos = self._step(None)
        except ReplayError:
            raise
        except Exception as error:
            raise ReplayError(
                f"the vector environment cannot be played again: {error!r}"
            ) from error
        info = self._info(infos)
        info.pop("final_obs", None)
        info.pop("final_info", None)
        return self._part(observations), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step all of them."""
        observations, rewards, terminations, truncations, infos = self._step(action)
        observation, info = self._part(observations), self._info(infos)
        ends = bool(terminations[self._index]), bool(truncations[self._index])
        if self._is_same_step and any(ends):
            observation, info = info.get("final_obs"), info.get("final_info") or {}
        return observation, rewards[self._index], *ends, info

    def close(self) -> None:
        """Close the vector environment."""
        self._envs.close()

    def _step(self, own: Any) -> Any:
        actions = [self._action(i, chain) for i, chain in enumerate(self._parts)]
        if own is not None:
            actions[self._index] = own
        self._at += 1
        return self._envs.step(_batched(self._envs, actions))

    def _action(self, index: int, chain: Sequence[_Part]) -> Any:
        """The recorded action; anything in a step that is ignored."""
        for one in chain:
            if one.begin <= self._at < one.begin + len(one.actions):
                return one.actions[self._at - one.begin]
        if self._at > max(one.begin + len(one.actions) for one in chain):
            raise ReplayError(
                f"step {self._at} of sub-environment {index} is not recorded, on which the others "
                "depend"
            )
        return self._filler

    def _part(self, observations: Any) -> Any:
        envs = self._envs
        return split_batch(envs.observation_space, on_host(observations), envs.num_envs)[
            self._index
        ]

    def _info(self, infos: Any) -> dict[str, Any]:
        info: dict[str, Any] = split_infos(infos, self._envs.num_envs)[self._index]
        return info


def _batched(envs: VectorEnv[Any, Any, Any], actions: Sequence[Any]) -> Any:
    if all(isinstance(one, (int, float, np.ndarray, np.generic)) for one in actions):
        return np.stack([np.asarray(one) for one in actions])
    empty: Any = create_empty_array(envs.single_action_space, n=envs.num_envs)
    return concatenate(envs.single_action_space, actions, empty)
