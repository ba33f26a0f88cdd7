"""What was recorded -> what Stable-Baselines3's buffers hold of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.preprocessing import (
    get_action_dim,
    get_obs_shape,
    is_image_space,
    is_image_space_channels_first,
)
from stable_baselines3.common.vec_env import VecTransposeImage

from jamboree_gym.arrays.packing import rows_of
from jamboree_gym.arrays.trees import zip_leaves
from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import decode_episode_note
from jamboree_gym.environment.provenance import decode_provenance
from jamboree_gym.environment.spaces import space_from_json
from jamboree_gym.errors import BufferMismatch, DecodeError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import Transitions

__all__ = [
    "Conversions",
    "Converted",
    "Converter",
    "Spaces",
    "assign",
    "check_one_number",
    "joined",
    "provenances_of",
    "space_of_model",
]

Spaces: TypeAlias = tuple[spaces.Space[Any], spaces.Space[Any]]
"""Of observations, and of actions."""

_HEADS_AT_ONCE = 4000
_NORMALIZES = ".VecNormalize"


def check_one_number(rewards: npt.NDArray[Any]) -> None:
    """Make sure that rewards are what these libraries learn from.

    Raises:
        BufferMismatch: A reward is several numbers; says what to do.
    """
    if rewards.ndim > 1:
        raise BufferMismatch(
            f"a reward of shape {rewards.shape[1:]} was recorded, and this holds one number for a "
            "step: record above mo_gymnasium.wrappers.LinearReward(env, weight)"
        )


class Converted(NamedTuple):
    """n transitions as SB3's buffers hold them.

    Attributes:
        observations: (n, ...) with images channel first, a dict of these for dict observations.
        next_observations: Likewise; at an end the episode's real last observation.
        actions: (n, action_dim); those of a bounded Box in [-1, 1].
        rewards: float32 (n,).
        dones: bool (n,), whether the episode ended there.
        timeouts: bool (n,), whether that was a truncation and nothing else.
    """

    observations: Any
    next_observations: Any
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    dones: npt.NDArray[np.bool_]
    timeouts: npt.NDArray[np.bool_]

    def part(self, rows: Any) -> Converted:
        """Some of the transitions."""
        return Converted(*(rows_of(arrays, rows) for arrays in self))


def joined(parts: Sequence[Converted]) -> Converted:
    """Several, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Converted(*(zip_leaves(np.concatenate, arrays) for arrays in zip(*parts, strict=True)))


def assign(arrays: Any, rows: Any, column: Any, values: Any) -> None:
    """Set rows of a buffer's array, or of each array of a dict of them."""
    if not isinstance(arrays, dict):
        arrays[rows, column] = values
        return
    for key, array in arrays.items():
        array[rows, column] = values[key]


class Converter:
    """Converts transitions of one pair of spaces.

    Actions of a bounded `Box` are scaled to [-1, 1] and images get their channels first, because
    SB3's off-policy algorithms keep both so (`_store_transition`, `VecTransposeImage`).

    Args:
        observation_space: As it was recorded.
        action_space: Likewise.
        transposes: Whether the model sees images the other way round.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        transposes: bool,
    ) -> None:
        model_space = space_of_model(observation_space) if transposes else observation_space
        self._shapes: Any = get_obs_shape(model_space)
        self._turned = _turned(observation_space) if transposes else frozenset()
        self._action_dim = get_action_dim(action_space)
        self._scale = _scaling(action_space)

    @np.errstate(all="ignore")  # beyond float32 a reward is infinite
    def __call__(self, steps: Transitions) -> Converted:
        """Convert.

        Raises:
            BufferMismatch: The values are not what their space says.
        """
        actions = np.asarray(steps.actions)
        if actions.dtype == object or actions.size != len(steps) * self._action_dim:
            raise BufferMismatch("actions were recorded that are not of their space: no one array")
        check_one_number(steps.rewards)
        return Converted(
            self._observations(steps.observations),
            self._observations(steps.next_observations),
            self._scale(actions).reshape(len(steps), self._action_dim),
            steps.rewards.astype(np.float32),
            steps.terminations | steps.truncations,
            steps.truncations & ~steps.terminations,
        )

    def _observations(self, arrays: Any) -> Any:
        if not isinstance(self._shapes, dict):
            return self._part(arrays, "", self._shapes)
        if not isinstance(arrays, dict) or arrays.keys() != self._shapes.keys():
            raise BufferMismatch(f"observations were recorded without all of {[*self._shapes]}")
        return {key: self._part(arrays[key], key, shape) for key, shape in self._shapes.items()}

    def _part(self, array: Any, key: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        if not isinstance(array, np.ndarray) or array.dtype == object:
            raise BufferMismatch(f"observations {key} were recorded that are no one array")
        if key in self._turned:
            array = VecTransposeImage.transpose_image(array)
        if array[:1].size not in (0, int(np.prod(shape))):
            raise BufferMismatch(f"observations {key} of shape {array.shape[1:]}, not {shape}")
        whole: npt.NDArray[Any] = array.reshape(len(array), *shape)
        return whole


class Conversions:
    """Converters for what a buffer of these spaces may get; checks each provenance once.

    Args:
        connection: Where the episodes are.
        of_buffer: The buffer's spaces of observations and actions; None = those of the first
            episode, as a model sees them.
    """

    def __init__(self, connection: Connection, of_buffer: Spaces | None) -> None:
        self._connection = connection
        self._spaces = of_buffer
        self._known: dict[str, Converter] = {}

    @property
    def spaces(self) -> Spaces:
        """The buffer's spaces.

        Raises:
            BufferMismatch: None were given, and no episode has been asked for yet.
        """
        if self._spaces is None:
            raise BufferMismatch("it is not known yet of which spaces the episodes are")
        return self._spaces

    def of(self, episode_id: str, digest: str) -> Converter:
        """The converter for an episode.

        Args:
            episode_id: For the error message.
            digest: Of its provenance.

        Raises:
            BufferMismatch: Its spaces are not the buffer's, or its values were normalised.
        """
        if digest not in self._known:
            self._known[digest] = self._checked(episode_id, digest)
        return self._known[digest]

    def _checked(self, episode_id: str, digest: str) -> Converter:
        where = self._connection.keyspace.blob(digest)
        provenance = decode_provenance(self._connection.store.blobs.get(digest), where=where)
        if _is_normalised(provenance):
            raise BufferMismatch(
                f"episode {episode_id!r} was recorded above VecNormalize, and a buffer holds raw "
                "values: record below it, VecNormalize(jam.record(venv)), or leave it out"
            )
        try:
            observed = space_from_json(provenance["observation_space"])
            acted = space_from_json(provenance["action_space"])
        except KeyError as error:
            raise DecodeError(f"{where}: a provenance without {error}") from error
        _check_supported(observed, acted)
        if self._spaces is None:
            self._spaces = space_of_model(observed), acted
        observation_space, action_space = self._spaces
        _check_equal("actions", episode_id, acted, action_space)
        if observed == observation_space:
            return Converter(observed, acted, transposes=False)
        _check_equal("observations", episode_id, space_of_model(observed), observation_space)
        return Converter(observed, acted, transposes=True)


def provenances_of(connection: Connection, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each episode's id, and the digest of its provenance; thousands in a round trip.

    Raises:
        EpisodeNotFound: One of them is not there any more.
        DecodeError: One is damaged.
    """
    for first in range(0, len(ids), _HEADS_AT_ONCE):
        keys = {connection.keyspace.episode(id): id for id in ids[first : first + _HEADS_AT_ONCE]}
        heads = connection.redis_store.reader.heads(list(keys))
        for key, id in keys.items():
            head = heads.get(key)
            if isinstance(head, DecodeError):
                raise head
            if head is None:  # the backup may have it
                yield id, Episode(connection, id).origin.provenance
            else:
                yield id, decode_episode_note(head.note, episode_id=id, where=key)[1].provenance


def space_of_model(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The observation space of a model: SB3 puts `VecTransposeImage` around images."""
    turned = _turned(space)
    if not turned:
        return space
    if not isinstance(space, spaces.Dict):
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return spaces.Dict(
        {
            key: VecTransposeImage.transpose_space(part, key) if key in turned else part  # type: ignore[arg-type]
            for key, part in space.spaces.items()
        }
    )


def _turned(space: spaces.Space[Any]) -> frozenset[str]:
    """Keys of the images with their channels last; `""` where there are no keys."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    return frozenset(
        key
        for key, part in parts.items()
        if isinstance(part, spaces.Box)
        and is_image_space(part)
        and not is_image_space_channels_first(part)
    )


def _scaling(space: spaces.Space[Any]) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """As `BasePolicy.scale_action`; without bounds there is nothing to scale to."""
    if not isinstance(space, spaces.Box) or not np.isfinite([space.low, space.high]).all():
        return lambda actions: actions
    low, high = space.low, space.high
    return lambda actions: 2.0 * ((actions - low) / (high - low)) - 1.0


def _check_supported(observed: spaces.Space[Any], acted: spaces.Space[Any]) -> None:
    for key, part in observed.items() if isinstance(observed, spaces.Dict) else ():
        if isinstance(part, (spaces.Dict, spaces.Tuple)):
            raise BufferMismatch(
                f"Stable-Baselines3 has no buffer for observations with a {type(part).__name__} "
                f"within ({key!r}): flatten them (gymnasium.wrappers.FlattenObservation), and "
                "record above that"
            )
    try:
        get_obs_shape(observed)
        get_action_dim(acted)
    except (AssertionError, NotImplementedError, TypeError) as error:
        raise BufferMismatch(f"Stable-Baselines3 has no buffer for it: {error}") from error


def _check_equal(what: str, id: str, recorded: spaces.Space[Any], of: spaces.Space[Any]) -> None:
    if recorded != of:
        raise BufferMismatch(
            f"{what} of episode {id!r} are of {recorded}, the buffer's of {of}: choose episodes "
            "that were recorded where the model sees them"
        )


def _is_normalised(provenance: Mapping[str, Any]) -> bool:
    vector = provenance.get("vector") or {}
    wrappers: Iterable[Any] = vector.get("wrappers", ()) if isinstance(vector, dict) else ()
    return any(str(name).endswith(_NORMALIZES) for name in wrappers)
