"""`from_minari`: the episodes of a Minari dataset, in the store."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari import MinariDataset

from jamboree_gym.arrays.packing import Arrays, as_objects
from jamboree_gym.arrays.step_schema import SchemaChanges, StepSchema
from jamboree_gym.arrays.values import check_text
from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection, HasConnection
from jamboree_gym.environment.provenance import describe_imported
from jamboree_gym.errors import DecodeError, EpisodeNotFound, InvalidArgument
from jamboree_gym.integrations.minari.columns import ANNOTATED, TIMESTAMP, InfoColumns
from jamboree_gym.integrations.minari.convert import Note, note_of, schemas_of
from jamboree_gym.integrations.minari.staging import OWN_METADATA
from jamboree_gym.keys import digest
from jamboree_gym.progress import Progress, teller
from jamboree_gym.recording.importer import (
    EpisodeImporter,
    NewEpisode,
    episode_id_of,
    is_imported,
    layout_of_arrays,
    layout_of_rewards,
)
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary

__all__ = ["from_minari"]

EPISODES_PER_READ = 500
_SOURCE = "minari"
_UNREADABLE = (OSError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)

log = logging.getLogger(__name__)


@checked
def from_minari(
    jam: HasConnection,
    dataset: MinariDataset | str,
    *,
    run: str | None = None,
    tags: Mapping[str, Any] | None = None,
    progress: bool | Progress = False,
) -> list[str]:
    """Store the episodes of a Minari dataset as if they had been recorded.

    A dataset of `to_minari` is restored as it was recorded: types, times, tags, annotations and
    provenance. From any other dataset, its content is imported; Minari has no times, so the steps
    get the time of the import, a microsecond apart.

    The id of an episode follows from the id of the dataset, the run and its position (or from its
    recorded id). So a second call, also after a kill, adds the missing episodes, and none twice.

    Example:
        >>> ids = from_minari(jam, "D4RL/pointmaze/umaze-v2", progress=True)
        >>> jam.episode(ids[0]).data().rewards.sum()

    Args:
        jam: The Jamboree that stores them.
        dataset: A dataset, of which the selected episodes are imported; or the id of a dataset on
            this machine.
        run: The run of the episodes; None = the dataset's id.
        tags: Tags for all episodes, added to the recorded ones and to `minari` (the dataset's id)
            and `minari_episode` (the position).
        progress: Whether to show on stderr how many episodes there are; or a function that is
            called with that number and the number of all.

    Returns:
        Ids of the episodes, in the dataset's order.

    Raises:
        EpisodeNotFound: There is no such dataset here.
        InvalidArgument: The run's name is no valid Unicode, or the tags are no dict.
        InvalidRecord: A tag cannot be stored, or another dataset with this id was imported before.
        DecodeError: What the dataset holds is damaged.
        StoreUnavailable: Redis is away; call again when it is back.
        MissingExtra: Minari, h5py or Pillow is not installed.
    """
    if run is not None:
        check_text("run", run, InvalidArgument)
    connection = jam._connection
    opened = _opened(dataset) if isinstance(dataset, str) else dataset
    source = _Source(
        connection,
        opened,
        opened.id if run is None else run,
        connection.check_tags(tags or {}),
    )
    indices = [int(index) for index in opened.episode_indices]
    report = teller(progress, "episodes imported")
    ids: list[str] = []
    with EpisodeImporter(connection) as importer:
        for first in range(0, len(indices), EPISODES_PER_READ):
            ids += source.bring(importer, indices[first : first + EPISODES_PER_READ])
            importer.flush()
            if report is not None:
                report(len(ids), len(indices))
    return ids


def _opened(dataset_id: str) -> MinariDataset:
    try:
        return minari.load_dataset(dataset_id)
    except FileNotFoundError as error:
        raise EpisodeNotFound(
            f"no Minari dataset {dataset_id!r} on this machine: minari download {dataset_id}"
        ) from error
    except _UNREADABLE as error:
        raise DecodeError(f"the Minari dataset {dataset_id!r} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class _Listed:
    """An episode, according to the dataset's metadata."""

    index: int
    id: str
    note: Note | None
    metadata: Mapping[str, Any]

    @property
    def steps(self) -> int:
        return int(self.metadata["total_steps"])


class _Source:
    def __init__(
        self, connection: Connection, dataset: MinariDataset, run: str, tags: Mapping[str, Any]
    ) -> None:
        self._connection = connection
        self._storage = dataset.storage
        self._space_pair = (dataset.observation_space, dataset.action_space)
        self._id, self._run, self._tags = str(dataset.id), run, tags
        own = self._storage.metadata.get(OWN_METADATA)
        own = own if isinstance(own, dict) else {}
        self._provenances = dict(own.get("provenances", {}))
        self._layouts = dict(own.get("layouts", {}))
        self._schemas: dict[str, SchemaChanges] = {}
        self._env_id = "" if dataset.env_spec is None else dataset.env_spec.id
        self._foreign = describe_imported(
            dataset.env_spec,
            *self._space_pair,
            source={"from": _SOURCE, "dataset": self._id, "version": dataset.minari_version},
        )
        self._blobs: dict[str, Mapping[str, bytes]] = {}

    def bring(self, importer: EpisodeImporter, indices: Sequence[int]) -> list[str]:
        """Import those of these episodes that are not there yet; the ids of all."""
        metadata = zip(indices, self._read("get_episode_metadata", indices), strict=True)
        listed_episodes = [self._listed(index, one) for index, one in metadata]
        there = importer.stored([listed.id for listed in listed_episodes])
        missing = [
            one
            for one in listed_episodes
            if not is_imported(there.get(one.id), one.steps, f"episode {one.index} of {self._id}")
        ]
        episodes = self._read("get_episodes", [one.index for one in missing]) if missing else ()
        for listed, content in zip(missing, episodes, strict=True):
            importer.add(self._episode(listed, content, there.get(listed.id)))
        return [listed.id for listed in listed_episodes]

    def _read(self, how: str, indices: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """What Minari's own reader gives."""
        try:
            yield from getattr(self._storage, how)(indices)
        except _UNREADABLE as error:
            raise DecodeError(f"the Minari dataset {self._id!r} cannot be read: {error}") from error

    def _listed(self, index: int, metadata: Mapping[str, Any]) -> _Listed:
        note = note_of(metadata, f"episode {index} of {self._id}")
        return _Listed(index, self._new_id(index if note is None else note[0].id), note, metadata)

    def _new_id(self, known: int | str) -> str:
        return episode_id_of(_SOURCE, self._id, self._run, known)

    def _episode(
        self, listed: _Listed, content: Mapping[str, Any], begun: EpisodeSummary | None
    ) -> NewEpisode:
        if len(content["rewards"]) != listed.steps:
            raise DecodeError(
                f"episode {listed.index} of {self._id} has {listed.steps} steps, and Minari reads "
                f"{len(content['rewards'])}: of its Arrow files it reads 131,072 rows at most"
            )
        episode = self._recorded(listed, content) or self._found(listed, content)
        tags = {**episode.summary.tags, _SOURCE: self._id, "minari_episode": listed.index}
        summary = replace(episode.summary, id=listed.id, run=self._run, tags={**tags, **self._tags})
        if begun is not None and episode.timestamps is None:
            summary = replace(summary, started_at=begun.started_at)  # a killed import began it
        return replace(episode, summary=summary)

    # -- episodes that were recorded --------------------------------------------------------

    def _recorded(self, listed: _Listed, content: Mapping[str, Any]) -> NewEpisode | None:
        """An episode that `to_minari` has written; None where another program has."""
        if listed.note is None:
            return None
        summary, origin, name = listed.note
        where, count = f"episode {listed.index} of {self._id}", listed.steps + 1
        try:
            layouts, provenance = self._layouts[name], self._provenances[origin.provenance]
        except KeyError as error:
            raise DecodeError(f"{where}: its dataset lacks {error}") from error
        if name not in self._schemas:
            self._schemas[name] = schemas_of(layouts)
        columns = content["infos"]
        infos, annotations = InfoColumns.read(columns, layouts["infos"], count)
        times = np.asarray(columns[TIMESTAMP], np.float64)
        truncations = np.array(content["truncations"], np.bool_)
        truncations[-1] &= summary.status not in ("abandoned", "interrupted")
        return NewEpisode(
            replace(
                summary,
                steps=0,
                episode_return=0.0,
                returns=None,
                parent=self._relinked(summary.parent),
                parent_run=None if summary.parent is None else self._new_run_of_parent(summary),
            ),
            replace(
                origin,
                follows=self._relinked(origin.follows),
                parent=self._relinked(origin.parent),
            ),
            {origin.provenance: provenance.encode()},
            self._schemas[name],
            _arrays(content["observations"], self._space_pair[0]),
            _arrays(content["actions"], self._space_pair[1]),
            content["rewards"],
            content["terminations"],
            truncations,
            infos,
            times[1:],
            np.asarray(columns[ANNOTATED], np.bool_)[1:] if ANNOTATED in columns else None,
            annotations,
        )

    def _relinked(self, id: str | None) -> str | None:
        """What an episode that is imported calls another one: that one is imported, too."""
        return None if id is None else self._new_id(id)

    def _new_run_of_parent(self, summary: EpisodeSummary) -> str | None:
        """The run of a fork's parent: if both were of one run, they stay together."""
        return self._run if summary.parent_run == summary.run else summary.parent_run

    # -- episodes of others -----------------------------------------------------------------

    def _found(self, listed: _Listed, content: Mapping[str, Any]) -> NewEpisode:
        """An episode that another program has written."""
        pairs = zip(("observations", "actions"), self._space_pair, strict=True)
        observations, actions = (_arrays(content[name], space) for name, space in pairs)
        schema = StepSchema(
            layout_of_arrays(observations, self._space_pair[0]),
            layout_of_arrays(actions, self._space_pair[1]),
            reward=layout_of_rewards(content["rewards"]),
        ).shared
        seed, options = listed.metadata.get("seed"), listed.metadata.get("options")
        name = digest(self._foreign)
        return NewEpisode(
            EpisodeSummary(
                listed.id,
                self._env_id,
                self._run,
                "abandoned",
                steps=0,
                episode_return=0.0,
                started_at=self._connection.start_time(after=-np.inf),
                elapsed_s=0.0,
                seed=None if seed is None else int(seed),
                writer=self._connection.writer_name,
            ),
            EpisodeOrigin(None if seed is None else int(seed), None, options, name),
            {name: self._foreign},
            [(0, schema)],
            observations,
            actions,
            content["rewards"],
            content["terminations"],
            content["truncations"],
            _infos(content.get("infos") or {}, listed.steps),
        )


def _arrays(arrays: Any, space: spaces.Space[Any]) -> Arrays:
    """As we have them: in the order of the space, texts in an array of objects."""
    if isinstance(space, spaces.Dict):
        return {key: _arrays(arrays[key], of) for key, of in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_arrays(part, of) for part, of in zip(arrays, space.spaces, strict=True))
    return as_objects(arrays) if isinstance(arrays, list) else np.asarray(arrays)


def _infos(columns: Mapping[str, Any], steps: int) -> list[dict[str, Any]]:
    """Infos as a dict for each row. Where there is none of the reset, it is empty."""
    infos: list[dict[str, Any]] = [{} for _ in range(steps + 1)]
    for key, values in columns.items():
        rows: Sequence[Any] = _infos(values, steps) if isinstance(values, Mapping) else values
        count = len(rows) if isinstance(rows, list) or np.ndim(rows) else 0
        if count not in (steps, steps + 1):
            log.warning("the info %r has %d values for %d steps: left out", key, count, steps)
            continue
        for info, value in zip(infos[steps + 1 - count :], rows, strict=True):
            info[key] = value.decode() if isinstance(value, bytes) else value
    return infos
