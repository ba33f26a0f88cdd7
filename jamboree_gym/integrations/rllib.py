"""RLlib: recorded episodes for its offline API, and annotations of what it plays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from gymnasium import spaces

from jamboree_gym.arrays.trees import Arrays, numbers_of
from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.environment.provenance import decode_provenance
from jamboree_gym.environment.spaces import space_from_json
from jamboree_gym.errors import DecodeError, ExportError, InvalidArgument, MissingExtra
from jamboree_gym.progress import Progress
from jamboree_gym.reading.bulk_read import WholeEpisode, trips, whole_episodes
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.reading.part_folder import PartFolder, whole
from jamboree_gym.reading.query import EpisodeQuery, found_by

try:
    import msgpack
    import msgpack_numpy
    from ray.rllib.connectors.connector_v2 import ConnectorV2
    from ray.rllib.core.columns import Columns
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode
    from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
except ImportError as error:
    raise MissingExtra(
        "this needs RLlib, which needs an older Gymnasium: pip install 'ray[rllib]' msgpack-numpy "
        "in an environment of its own"
    ) from error

__all__ = ["AnnotateSteps", "to_rllib"]

_SPACES = ("observation_space", "action_space")
_ANNOTATED = {"value": Columns.VF_PREDS, "log_prob": Columns.ACTION_LOGP}

Spaces = tuple[spaces.Space[Any], spaces.Space[Any]]
"""Of observations, and of actions."""


@checked
def to_rllib(
    query: EpisodeQuery,
    folder: str | Path,
    *,
    annotations: Sequence[str] = (),
    normalize_actions: bool = True,
    progress: bool | Progress = False,
) -> Path:
    """Write the episodes that are over into Parquet files that RLlib's offline API reads.

    Each row is an episode, as RLlib records its own (`output_write_episodes=True`). Algorithms with
    `input_read_episodes=True` learn from it: BC, MARWIL, CQL, IQL. Values keep dtype and shape. If
    you call this again, also after a kill, it adds the missing episodes.

    An episode that broke off (abandoned, interrupted) is truncated at its last step, because RLlib
    takes only episodes with an end. Episodes without steps and infos are left out. An episode is in
    memory as a whole.

    Example:
        >>> path = to_rllib(jam.episodes(run="first"), "first")
        >>> config.offline_data(input_=[str(path)], input_read_episodes=True)

    Args:
        query: The episodes.
        folder: Where to; it is made.
        annotations: Names of annotations to include: `log_prob` as RLlib's `action_logp`, `value`
            as its `vf_preds`, others under their name.
        normalize_actions: Whether actions of a bounded `Box` are scaled to [-1, 1]. RLlib's modules
            choose such actions, and RLlib scales them back when it steps the environment. Give
            False for a config with `environment(normalize_actions=False)`.
        progress: Whether to show on stderr how many episodes have been written; or a function that
            is called with that number and the number of all.

    Returns:
        The folder.

    Raises:
        ExportError: Values without fixed shape, tuples, rewards of several numbers (names them), or
            an annotation that is not there; or another process writes there.
        EpisodeNotFound: An episode has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    connection, found = found_by(query)
    files = PartFolder(Path(folder), "part-*.parquet")
    with files.locked():
        writer = _Writer(connection, files, tuple(annotations), normalize_actions)
        wanted = [one for one in found if one.steps]
        for trip in files.rest(wanted, writer.lengths, partial(_trips, connection), progress):
            writer.write(trip)
    return files.path


def _trips(connection: Connection, found: Found) -> Iterator[tuple[int, list[StoredSummary]]]:
    done = 0
    for trip, _ in trips(connection, found):
        done += len(trip)
        yield done, trip


class _Writer:
    """Writes parts of a folder; knows the length of each episode that is there, by its id."""

    def __init__(
        self,
        connection: Connection,
        files: PartFolder,
        annotations: Sequence[str],
        normalize_actions: bool,
    ) -> None:
        self._connection = connection
        self._files = files
        self._annotations = annotations
        self._normalizes = normalize_actions
        self._spaces: dict[str, Spaces] = {}
        self.lengths = {id: steps for path in files.paths() for id, steps in _lengths_in(path)}
        _check_own(files)

    def write(self, trip: Sequence[StoredSummary]) -> None:
        read = [decode() for decode in whole_episodes(self._connection, [one.id for one in trip])]
        table = pa.table(
            {
                "item": pa.array([self._packed(one) for one in read], pa.large_binary()),
                "episode_id": [one.id for one in read],
                "steps": [len(one.rows) - 1 for one in read],
            }
        )
        with whole(self._files.next()) as aside:
            pq.write_table(table, aside, compression="zstd")

    def _packed(self, one: WholeEpisode) -> bytes:
        state = _episode(one, self._spaces_of(one), self._annotations, self._normalizes).get_state()
        return bytes(msgpack.packb(state, default=msgpack_numpy.encode))

    def _spaces_of(self, one: WholeEpisode) -> Spaces:
        name = one.origin.provenance
        if name not in self._spaces:
            provenance = decode_provenance(self._connection.store.blobs.get(name), where=name)
            try:
                of_observations, of_actions = (space_from_json(provenance[key]) for key in _SPACES)
            except LookupError as error:
                raise DecodeError(f"{name}: not a provenance: it has no {error}") from error
            self._spaces[name] = of_observations, of_actions
        return self._spaces[name]


def _lengths_in(path: Path) -> Iterator[tuple[str, int]]:
    columns = pq.read_schema(path).names
    if columns != ["item", "episode_id", "steps"]:
        raise ExportError(f"{path} was written by something else: choose another folder")
    table = pq.read_table(path, columns=["episode_id", "steps"])
    yield from zip(table["episode_id"].to_pylist(), table["steps"].to_pylist(), strict=True)


def _check_own(files: PartFolder) -> None:
    """Refuse a folder with foreign files, which RLlib would read as well."""
    own = set(files.paths())
    for path in files.path.glob("[!.]*.parquet"):
        if path not in own:
            raise ExportError(f"{path} was written by something else: choose another folder")


def _episode(
    one: WholeEpisode, its_spaces: Spaces, annotations: Sequence[str], normalizes: bool
) -> Any:
    """An episode of RLlib, with lists of single values: RLlib records its own in this form."""
    rows, steps = one.rows, one.rows[1:]
    if steps.rewards.ndim > 1:
        raise ExportError(
            f"a reward of episode {one.id!r} has shape {steps.rewards.shape[1:]}, and RLlib takes "
            "one number: record above mo_gymnasium.wrappers.LinearReward(env, weight)"
        )
    for name, arrays in (("observation", rows.observations), ("action", steps.actions)):
        _check(name, arrays, one.id)
    of_observations, of_actions = its_spaces
    actions = _normalized(steps.actions, of_actions) if normalizes else steps.actions
    terminated = bool(steps.terminations[-1])
    return SingleAgentEpisode(
        id_=one.id,
        observations=_values(rows.observations),
        observation_space=of_observations,
        actions=_values(actions),
        action_space=of_actions,
        rewards=steps.rewards.tolist(),
        terminated=terminated,
        truncated=not terminated,
        extra_model_outputs={
            _ANNOTATED.get(name, name): _values(_annotation(steps.annotations, name, one.id))
            for name in annotations
        },
        len_lookback_buffer=0,
    )


def _check(name: str, arrays: Arrays, episode: str) -> None:
    """Refuse what RLlib would not read as it was."""
    if isinstance(arrays, (list, tuple)):
        raise ExportError(
            f"{name} of episode {episode!r} is a tuple, or has one, and RLlib reads tuples from "
            "files as lists: record above a wrapper that makes a dict or an array of it"
        )
    if isinstance(arrays, dict):
        for key, part in arrays.items():
            _check(f'{name}["{key}"]', part, episode)
        return
    list(numbers_of(arrays, name, episode=episode, into="RLlib"))


def _annotation(annotations: Mapping[str, Arrays], name: str, episode: str) -> Arrays:
    if name not in annotations:
        raise ExportError(f"the agent did not say {name!r} in episode {episode!r}")
    _check(name, annotations[name], episode)
    return annotations[name]


def _values(arrays: Arrays) -> list[Any]:
    """The value of each row."""
    if not isinstance(arrays, dict):
        return list(arrays)
    parts = {key: _values(part) for key, part in arrays.items()}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]


def _normalized(actions: Arrays, space: spaces.Space[Any]) -> Arrays:
    """Actions as a module of RLlib chooses them; RLlib's `unsquash_action` is the way back."""
    if isinstance(space, spaces.Dict) and isinstance(actions, dict):
        return {key: _normalized(actions[key], part) for key, part in space.items()}
    if not (
        isinstance(space, spaces.Box)
        and isinstance(actions, np.ndarray)
        and space.bounded_below.all()
        and space.bounded_above.all()
    ):
        return actions
    if space.dtype.kind != "f":
        return actions - space.low
    scaled: npt.NDArray[Any] = (actions - space.low) * 2.0 / (space.high - space.low) - 1.0
    return scaled.astype(actions.dtype)


class AnnotateSteps(ConnectorV2):  # type: ignore[misc] # RLlib has no types where it is absent
    """Annotates each step that an `EnvRunner` plays in recorded environments.

    It adds `policy_version` (RLlib's `weights_seq_no`), `log_prob`, and `value` if the module gives
    `vf_preds` when it explores; RLlib's own modules compute values in the learner only.

    It is a module-to-env connector, because a callback of RLlib runs after the step, and an
    annotation belongs to the step before it is made.

    Example:
        >>> def make(context):
        ...     return Jamboree().record(gym.make("CartPole-v1"), run="rllib")
        >>> register_env("recorded", make)
        >>> config = PPOConfig().environment("recorded")
        >>> config.env_runners(module_to_env_connector=AnnotateSteps.of)

    Args:
        env: The vector environment of the `EnvRunner`. Recorders are in its sub-environments, or
            around all of them (`gym_env_vectorize_mode="vector_entry_point"`).

    Raises:
        InvalidArgument: Nothing records it in this process.
    """

    def __init__(self, env: Any) -> None:
        super().__init__()
        self._annotate = _annotate_together(env) or _annotate_each(env)

    @classmethod
    def of(cls, env: Any, spaces: Any = None) -> Any:
        """For `module_to_env_connector=`: RLlib's processes without environment need none."""
        return [] if env is None else cls(env)

    def __call__(self, *, batch: Any, episodes: Any, metrics: Any = None, **kwargs: Any) -> Any:
        """Annotate the steps that are about to be made; `batch` stays as it is."""
        # By position: where an episode has just ended, `episodes` has the next one already.
        said = {
            name: [items[-1] for items in batch[column].values()]
            for name, column in _ANNOTATED.items()
            if column in batch
        }
        version = 0 if metrics is None else int(metrics.peek(WEIGHTS_SEQ_NO, default=0))
        self._annotate({"policy_version": [version] * len(episodes), **said})
        return batch


_Annotate = Callable[[Mapping[str, Sequence[Any]]], None]
"""Takes a value for each sub-environment, by name."""


def _annotate_together(env: Any) -> _Annotate | None:
    """With a recorder around all sub-environments."""
    annotate = getattr(env, "annotate", None)
    if annotate is None:
        return None
    return lambda said: annotate(**{name: np.array(column) for name, column in said.items()})


def _annotate_each(env: Any) -> _Annotate:
    """With a recorder in each sub-environment."""
    if not hasattr(env.unwrapped, "envs"):
        raise InvalidArgument(
            "AnnotateSteps finds no recorder, because the sub-environments are in other processes: "
            "use env_runners(gym_env_vectorize_mode='sync') and more env runners"
        )
    if not all(one.has_wrapper_attr("annotate") for one in env.unwrapped.envs):
        raise InvalidArgument(
            "AnnotateSteps finds no recorder: return jam.record(env) from the function that "
            "register_env takes"
        )
    annotate = [one.get_wrapper_attr("annotate") for one in env.unwrapped.envs]

    def annotate_each(said: Mapping[str, Sequence[Any]]) -> None:
        for position, its_own in enumerate(annotate):
            its_own(**{name: column[position] for name, column in said.items()})

    return annotate_each
