"""Episodes that come from somewhere else, as arrays: put into the store as if recorded.

The importer gives the same episode the same id at each import. So a second import finds what is
there (`stored`), and continues an import that was killed. An episode of a few MB comes in one
append, a longer one in several. Until the last append its status is stored as `running`. Nobody
holds a lease on it, so it is `interrupted`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from gymnasium import spaces

from jamboree_gym.arrays.layout import ENCODED, Group, Layout, Leaf, has_column
from jamboree_gym.arrays.packing import Arrays, filler, rows_of, unstack, variable_bytes
from jamboree_gym.arrays.step_schema import ONE_NUMBER, SchemaChanges, StepSchema, schema_at
from jamboree_gym.connection import Connection
from jamboree_gym.delivery.outbox import MAX_APPEND_BYTES
from jamboree_gym.delivery.row_writer import ROW_OVERHEAD_BYTES, rows_per_batch
from jamboree_gym.encoding.info_codec import InfoEncoder
from jamboree_gym.encoding.row_part import RowPart, packed_part
from jamboree_gym.encoding.summary_codec import check_summary, decode_episode_note, encode_origin
from jamboree_gym.errors import (
    DecodeError,
    EpisodeInUse,
    EpisodeNotFound,
    InvalidRecord,
    closing_after,
)
from jamboree_gym.recording.part_appends import appends_of
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary
from jamboree_gym.store.log import Append

__all__ = [
    "TICK_S",
    "EpisodeImporter",
    "NewEpisode",
    "episode_id_of",
    "layout_of_arrays",
    "layout_of_rewards",
]

_ROLES = ("observation", "action", "annotation")
TICK_S = 1e-6
"""So far apart are the steps of an episode of which nobody knows when they were made."""


@dataclass(frozen=True, slots=True, eq=False)
class NewEpisode:
    """An episode of T steps that is to be in the store.

    Attributes:
        summary: Id, run, environment, start, seed, tags and so on; status, number of steps, return
            and duration are taken from the steps. `running` stands for an episode that nobody
            continues.
        origin: What it can be begun with again; its provenance is named by `blobs`.
        blobs: What `origin` refers to, by digest.
        schemas: What the values were before they became arrays (`layout_of_arrays`), by row.
        observations: (T + 1, ...), the reset's first.
        actions: (T, ...).
        rewards: (T,), or (T, ...) where a reward is several numbers.
        terminations: bool (T,).
        truncations: bool (T,).
        infos: T + 1 dicts, the reset's first; or none.
        timestamps: float64 (T,), epoch seconds, ascending and later than the start; None where
            they are not known: then `TICK_S` apart.
        annotated: bool (T,), whether the agent said something of the step; None = of none.
        annotations: What it said, by name, each (T, ...).
    """

    summary: EpisodeSummary
    origin: EpisodeOrigin
    blobs: Mapping[str, bytes]
    schemas: SchemaChanges
    observations: Arrays
    actions: Arrays
    rewards: Any
    terminations: Any
    truncations: Any
    infos: Sequence[Mapping[str, Any]] = ()
    timestamps: Any = None
    annotated: Any = None
    annotations: Mapping[str, Arrays] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of steps, T."""
        return len(self.rewards)


def episode_id_of(*origin: object) -> str:
    """The id of an episode that came from there: 32 hexadecimal digits, always the same."""
    return blake2b("\n".join(map(repr, origin)).encode(), digest_size=16).hexdigest()


def is_imported(stored: EpisodeSummary | None, steps: int, what: str) -> bool:
    """Whether an episode is in the store with all of its steps; `what` is its name in errors.

    Raises:
        InvalidRecord: It is there with more steps.
    """
    if stored is None or stored.steps < steps:
        return False
    if stored.steps > steps:
        raise InvalidRecord(
            f"{what} was imported with {stored.steps} steps and has {steps}: that was another one. "
            "Import under another run"
        )
    return True


def layout_of_arrays(arrays: Arrays, space: spaces.Space[Any]) -> Layout:
    """Layout of the values that arrays (n, ...) hold, where only their space is known.

    Values of `Discrete` are NumPy scalars, as the space itself samples them. What is no array of
    numbers (an array of objects) is encoded one by one.
    """
    if isinstance(space, spaces.Dict) and isinstance(arrays, dict):
        parts = [layout_of_arrays(arrays[key], space[key]) for key in arrays]
        return Group("dict", tuple(arrays), tuple(parts))
    if isinstance(space, spaces.Tuple) and isinstance(arrays, (tuple, list)):
        pairs = zip(arrays, space.spaces, strict=True)
        parts = [layout_of_arrays(part, of) for part, of in pairs]
        return Group("tuple", tuple(range(len(parts))), tuple(parts))
    if not isinstance(arrays, np.ndarray) or not has_column(arrays.dtype):
        return ENCODED
    kind = "numpy" if isinstance(space, spaces.Discrete) and arrays.ndim == 1 else "array"
    return Leaf(arrays.dtype, arrays.shape[1:], "numpy" if kind == "numpy" else "array")


class EpisodeImporter:
    """Puts episodes into a store, several in a round trip.

    Example:
        >>> with EpisodeImporter(jam) as importer:
        ...     for episode in episodes:
        ...         importer.add(episode)

    Args:
        connection: Where to.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._infos = InfoEncoder()
        self._appends: list[Append] = []
        self._bytes = 0

    def stored(self, ids: Sequence[str]) -> dict[str, EpisodeSummary]:
        """Which of these are in the store, as they are there.

        Those that only began to come are `running`, with fewer steps than they have.

        Raises:
            DecodeError: The bytes of one are damaged; names its key.
        """
        store, keyspace = self._connection.redis_store, self._connection.keyspace
        keys = {keyspace.episode(id): id for id in ids}
        found = {}
        for key, head in store.reader.heads(list(keys)).items():
            if isinstance(head, DecodeError):
                raise head
            found[keys[key]] = decode_episode_note(head.note, episode_id=keys[key], where=key)[0]
        return found

    def add(self, episode: NewEpisode) -> None:
        """Put one into the store, now or together with the next ones.

        Raises:
            InvalidRecord: Its arrays do not fit together, or something cannot be kept.
            EpisodeInUse: There is another episode of this id.
        """
        check_summary(episode.summary)
        key = self._connection.keyspace.episode(episode.summary.id)
        for append in _appends(key, episode, self._infos):
            size = sum(map(len, append.batches))
            is_next = bool(self._appends) and self._appends[-1].key == append.key
            if self._appends and (is_next or self._bytes + size > MAX_APPEND_BYTES):
                self.flush()
            self._appends.append(append)
            self._bytes += size

    def flush(self) -> None:
        """Bring what was added to Redis."""
        sent, self._appends, self._bytes = self._appends, [], 0
        if not sent:
            return
        for append, result in zip(sent, self._connection.append_whole(sent), strict=True):
            name = self._connection.keyspace.in_words(append.key)
            if result.is_absent:
                raise EpisodeNotFound(f"{name} was deleted while it was imported: import it again")
            if result.stored < len(append.batches):
                raise EpisodeInUse(
                    f"{name} is there already, with other steps: delete that one, or "
                    "import under another run"
                )

    def __enter__(self) -> EpisodeImporter:
        """Use as a context manager: `flush` at the end."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Bring the last ones to Redis; after an error too, they are whole."""
        with closing_after(error):
            self.flush()


def _appends(key: str, episode: NewEpisode, infos: InfoEncoder) -> Iterator[Append]:
    """An episode as it is written; the same bytes each time."""
    parts = _parts(episode, infos)
    return appends_of(
        key,
        parts,
        replace(episode.summary, status="running"),
        origin=encode_origin(episode.origin),
        blobs={**episode.blobs, **{schema.digest: schema.blob for _, schema in episode.schemas}},
        status=_final_status(episode.summary.status, parts[-1]),
    )


def _final_status(wanted: EpisodeStatus, last: RowPart) -> EpisodeStatus:
    """What the last step says; where it is no end, what is wanted. `interrupted` is derived."""
    status = last.status
    is_broken_off = status == "running" and wanted not in ("running", "interrupted")
    return "abandoned" if is_broken_off else status


def _parts(episode: NewEpisode, infos: InfoEncoder) -> list[RowPart]:
    """The rows as they become batches."""
    count, start = len(episode) + 1, episode.summary.started_at
    times = start + np.arange(1, count) * TICK_S
    if episode.timestamps is not None:
        times = np.asarray(episode.timestamps, np.float64)
    columns: dict[str, Any] = {
        "rewards": _rewards(episode, count),
        "terminations": [False, *np.asarray(episode.terminations, np.bool_).tolist()],
        "truncations": [False, *np.asarray(episode.truncations, np.bool_).tolist()],
        "timestamps": [start, *times.tolist()],
        "infos": list(map(infos.encode, episode.infos)) if episode.infos else [None] * count,
        **{f"{role}s": _packed(episode, role, count) for role in _ROLES},
    }
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(str(len(column)) for column in columns.values())
        raise InvalidRecord(f"{_name(episode)} has columns of {lengths} rows")
    if not (np.diff([start, *times]) > 0).all():
        raise InvalidRecord(f"{_name(episode)} has times that do not ascend")
    size = rows_per_batch(_row_bytes(episode.schemas, columns))
    return [
        part
        for first, stop, schema, changes in _spans(episode.schemas, count)
        for part in packed_part(
            first, schema, changes, **{name: all_[first:stop] for name, all_ in columns.items()}
        ).cut(size)
    ]


def _spans(
    schemas: SchemaChanges, count: int
) -> Iterator[tuple[int, int, StepSchema, SchemaChanges]]:
    """From where to where the columns are the same; the first schema there, and those after it."""
    ends = [min(row, count) for row, _ in schemas[1:]] + [count]
    spans: list[tuple[int, int, StepSchema, list[tuple[int, StepSchema]]]] = []
    for (_, schema), first, stop in zip(schemas, [0, *ends[:-1]], ends, strict=True):
        if spans and schema.shares_columns_with(spans[-1][2]):
            start, _, known, changes = spans.pop()
            spans.append((start, stop, known, [*changes, (first - start, schema)]))
        else:
            spans.append((first, stop, schema, []))
    return (span for span in spans if span[0] < span[1])


def _row_bytes(schemas: SchemaChanges, columns: Mapping[str, Sequence[Any]]) -> int:
    """Bytes of a row on average, roughly."""
    count = len(columns["rewards"])
    variable = sum(len(info) for info in columns["infos"] if info)
    if any(schema.has_encoded for _, schema in schemas):
        variable += sum(
            variable_bytes(columns[f"{role}s"][row], getattr(schema_at(schemas, row), role))
            for row in range(count)
            for role in ("observation", "action")
        )
    fixed = max(schema.row_bytes for _, schema in schemas) + ROW_OVERHEAD_BYTES
    return fixed + variable // count


def layout_of_rewards(rewards: Any) -> Leaf:
    """Layout of a reward, given those of all steps."""
    array = np.asarray(rewards)
    if array.ndim < 2 or math.prod(array.shape[1:]) < 2:
        return ONE_NUMBER
    return Leaf(array.dtype, array.shape[1:], "array")


def _rewards(episode: NewEpisode, count: int) -> list[Any]:
    if all(schema.has_one_number for _, schema in episode.schemas):
        return [0.0, *np.asarray(episode.rewards, np.float64).reshape(-1).tolist()]
    return _packed(episode, "reward", count)


def _name(episode: NewEpisode) -> str:
    return f"the episode {episode.summary.id!r}"


def _packed(episode: NewEpisode, role: str, count: int) -> list[Any]:
    """Observations, actions or annotations of all rows, each of the layout that holds there."""
    ends = [min(row, count) for row, _ in episode.schemas[1:]] + [count]
    starts = [0, *ends[:-1]]
    try:
        return [
            value
            for first, stop, (_, schema) in zip(starts, ends, episode.schemas, strict=True)
            for value in _values(episode, role, schema, first, stop)
        ]
    except (InvalidRecord, LookupError, TypeError, ValueError) as error:
        raise InvalidRecord(f"{_name(episode)}: its {role}s cannot be kept: {error}") from error


def _values(episode: NewEpisode, role: str, schema: StepSchema, first: int, stop: int) -> list[Any]:
    """Of some rows. That of an action is the one that led there; the reset has a filler."""
    if role == "observation":
        observations = rows_of(episode.observations, slice(first, stop))
        return unstack(observations, schema.observation, stop - first)
    skipped, rows = int(first == 0), slice(max(0, first - 1), stop - 1)
    count = stop - first - skipped
    if role in ("action", "reward"):
        layout, arrays = getattr(schema, role), getattr(episode, f"{role}s")
        nothing = [filler(layout)] * skipped
        return nothing + (unstack(rows_of(arrays, rows), layout, count) if count else [])
    if not schema.is_annotated or episode.annotated is None:
        return [None] * (stop - first)
    named = {name: episode.annotations[str(name)] for name in schema.annotation.names}
    values = unstack(rows_of(named, rows), schema.annotation, count)
    is_said = np.asarray(episode.annotated, np.bool_)[rows].tolist()
    said = [value if is_there else None for value, is_there in zip(values, is_said, strict=True)]
    return [None] * skipped + said
