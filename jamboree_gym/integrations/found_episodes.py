"""Episodes out of files that keep values alone: layouts and spaces are read off the values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from jamboree_gym.arrays.layout import ENCODED, Group, Layout, Leaf, has_column
from jamboree_gym.arrays.packing import Arrays, as_objects
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.arrays.trees import leaves_of
from jamboree_gym.arrays.values import check_text
from jamboree_gym.connection import Connection, HasConnection
from jamboree_gym.environment.provenance import describe_imported
from jamboree_gym.environment.spaces import AnyText
from jamboree_gym.errors import DecodeError, InvalidArgument
from jamboree_gym.keys import digest
from jamboree_gym.progress import Progress, teller
from jamboree_gym.recording.importer import (
    EpisodeImporter,
    NewEpisode,
    episode_id_of,
    is_imported,
    layout_of_rewards,
)
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary

__all__ = ["FoundEpisode", "as_tree", "is_annotated", "store_found"]

EPISODES_PER_FLUSH: Final = 100


@dataclass(frozen=True, slots=True, eq=False)
class FoundEpisode:
    """An episode of T steps as a file has it.

    Attributes:
        id: What the file calls it.
        observations: (T + 1, ...), the reset's first.
        actions: (T, ...).
        rewards: (T,), or (T, ...) where a reward is several numbers.
        terminations: bool (T,).
        truncations: bool (T,).
        status: How it ended, where the last step is no end.
        env_id: Gymnasium id of the environment; `""` if it is not known.
        started_at: When the reset returned, epoch seconds; None if it is not known.
        timestamps: float64 (T,), epoch seconds; None if they are not known.
        seed: The seed of the reset; None if it is not known.
        tags: The recorder's tags.
        infos: T + 1 dicts, the reset's first; or none.
        annotations: What the agent said, by name, each (T, ...).
        annotated: bool (T,), at which steps it said something; None = at none.
    """

    id: str
    observations: Arrays
    actions: Arrays
    rewards: Any
    terminations: Any
    truncations: Any
    status: EpisodeStatus = "abandoned"
    env_id: str = ""
    started_at: float | None = None
    timestamps: Any = None
    seed: int | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    infos: Sequence[Mapping[str, Any]] = ()
    annotations: Mapping[str, Arrays] = field(default_factory=dict)
    annotated: Any = None


def store_found(
    jam: HasConnection,
    episodes: Iterable[FoundEpisode],
    *,
    source: str,
    run: str,
    tags: Mapping[str, Any] | None,
    total: int,
    progress: bool | Progress,
) -> list[str]:
    """Store the episodes that are not there yet; the ids of all, in their order.

    Args:
        jam: The Jamboree that stores them.
        episodes: The episodes.
        source: The format that they come from: tag `imported_from`.
        run: The run of the episodes.
        tags: Tags for all of them.
        total: How many there are.
        progress: As in `from_minari`.

    Raises:
        DecodeError: Two episodes have one id; those before the second one are stored.
        InvalidArgument: The run's name is no valid Unicode, or the tags are no dict.
        InvalidRecord: A value or a tag cannot be stored; or an episode was imported before, with
            more steps.
    """
    check_text("run", run, InvalidArgument)
    connection = jam._connection
    more_tags = connection.check_tags(tags or {})
    report = teller(progress, "episodes imported")
    ids: list[str] = []
    seen: set[str] = set()
    with EpisodeImporter(connection) as importer:
        for found in episodes:
            id = episode_id_of(source, run, found.id)
            if id in seen:
                raise DecodeError(
                    f"two episodes of {source} are called {found.id!r}: give each a name of its "
                    "own, or store those of each source under another run"
                )
            seen.add(id)
            stored = importer.stored([id]).get(id)
            if not is_imported(stored, len(found.rewards), f"episode {found.id} of {source}"):
                importer.add(_new_episode(connection, found, stored, id, run, source, more_tags))
            ids.append(id)
            if len(ids) % EPISODES_PER_FLUSH == 0:
                importer.flush()
                if report is not None:
                    report(len(ids), max(total, len(ids)))
        importer.flush()
    if report is not None and (not ids or len(ids) % EPISODES_PER_FLUSH):
        report(len(ids), max(total, len(ids)))
    return ids


def _new_episode(
    connection: Connection,
    found: FoundEpisode,
    begun: EpisodeSummary | None,
    id: str,
    run: str,
    source: str,
    tags: Mapping[str, Any],
) -> NewEpisode:
    observation_space, action_space = _space(found.observations), _space(found.actions)
    origin = {"from": source, "episode": found.id}
    provenance = describe_imported(None, observation_space, action_space, source=origin)
    annotation = _layout(dict(found.annotations)) if found.annotated is not None else None
    rewards = layout_of_rewards(found.rewards)
    schema = StepSchema(_layout(found.observations), _layout(found.actions), reward=rewards)
    if isinstance(annotation, Group):
        schema = replace(schema, annotation=annotation)
    started_at = found.started_at
    if started_at is None:  # an import that was killed may have begun it
        started_at = connection.start_time(after=-np.inf) if begun is None else begun.started_at
    known = {**found.tags, "imported_from": source, "imported_episode": found.id}
    return NewEpisode(
        EpisodeSummary(
            id,
            found.env_id,
            run,
            found.status,
            steps=0,
            episode_return=0.0,
            started_at=started_at,
            elapsed_s=0.0,
            seed=found.seed,
            tags={**connection.check_tags(known), **tags},
            writer=connection.writer_name,
        ),
        EpisodeOrigin(found.seed, None, None, digest(provenance)),
        {digest(provenance): provenance},
        [(0, schema.shared)],
        found.observations,
        found.actions,
        found.rewards,
        found.terminations,
        found.truncations,
        found.infos,
        found.timestamps,
        found.annotated,
        found.annotations,
    )


# -- what is known of values without their space --------------------------------------------


def as_tree(values: Sequence[Any]) -> Arrays:
    """Values one by one -> arrays (n, ...): nested as they are, texts in an array of objects."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: as_tree([value[key] for value in values]) for key in first}
    if isinstance(first, (list, tuple)):
        parts = zip(*values, strict=True)
        return tuple(as_tree(part) for part in parts)
    if isinstance(first, (str, bytes)):
        return as_objects([one.decode() if isinstance(one, bytes) else one for one in values])
    return np.stack([np.asarray(value) for value in values])


def is_annotated(annotations: Mapping[str, Arrays], steps: int) -> npt.NDArray[np.bool_] | None:
    """At which steps the agent said something: where not all floats are NaN; None = at none."""
    if not annotations:
        return None
    said = [
        ~np.isnan(values).all(axis=tuple(range(1, values.ndim)))
        for _, values in leaves_of(dict(annotations), "annotation")
        if values.dtype.kind == "f"
    ]
    return np.logical_or.reduce(said) if said else np.ones(steps, np.bool_)


def _layout(arrays: Arrays) -> Layout:
    """Single numbers become NumPy scalars."""
    if isinstance(arrays, dict):
        return Group("dict", tuple(arrays), tuple(map(_layout, arrays.values())))
    if isinstance(arrays, tuple):
        return Group("tuple", tuple(range(len(arrays))), tuple(map(_layout, arrays)))
    if not has_column(arrays.dtype):
        return ENCODED
    return Leaf(arrays.dtype, arrays.shape[1:], "numpy" if arrays.ndim == 1 else "array")


def _space(arrays: Arrays) -> spaces.Space[Any]:
    """The widest space of these values: only dtype and shape are known."""
    if isinstance(arrays, dict):
        return spaces.Dict({str(key): _space(part) for key, part in arrays.items()})
    if isinstance(arrays, tuple):
        return spaces.Tuple([_space(part) for part in arrays])
    if not has_column(arrays.dtype):
        return AnyText()
    shape, dtype = arrays.shape[1:], arrays.dtype.newbyteorder("=")
    if dtype.kind == "b":
        return spaces.Box(0, 1, shape, np.int8)
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, dtype.type)
    limits = np.iinfo(dtype)
    return spaces.Box(limits.min, limits.max, shape, dtype.type)
