"""Many episodes read at once: as many in a round trip as memory is meant for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.connection import Connection
from jamboree_gym.encoding.batch_format import BATCH_BODY, decode_head, is_whole
from jamboree_gym.encoding.bulk_decoder import RowCollector, plain_batch, read_tail
from jamboree_gym.encoding.column_batch import DIGEST_BYTES, Tail
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.encoding.summary_codec import StoredSummary, decode_stored_note
from jamboree_gym.errors import DecodeError, EpisodeNotFound
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.row_arrays import to_transitions, transitions_between
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, Transitions

__all__ = ["Block", "Listed", "WholeEpisode", "read_blocks", "trips", "whole_episodes"]

MAX_EPISODES = 4000
MAX_BYTES = 8 << 20
_SCHEMA = slice(BATCH_BODY, BATCH_BODY + DIGEST_BYTES)

_Kind = tuple[bytes, int, int]
"""Schema, size and number of rows of an episode's only batch."""


class Listed(Protocol):
    """What has to be known of an episode to read it together with others."""

    @property
    def id(self) -> str: ...  # noqa: D102 - as in EpisodeSummary

    @property
    def run(self) -> str: ...  # noqa: D102

    @property
    def env_id(self) -> str: ...  # noqa: D102

    @property
    def steps(self) -> int: ...  # noqa: D102


_Listed = TypeVar("_Listed", bound=Listed)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of several episodes with the same columns.

    Attributes:
        ids: The episodes, in the order in which they were asked for.
        counts: Number of rows of each.
        firsts: Where the rows of each begin; they may lie in another order.
        start: Row number of the first one; 0 where there are several episodes.
        rows: The rows.
    """

    ids: Sequence[str]
    counts: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.int64]
    start: int
    rows: Rows

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Number of transitions of each episode."""
        return self.counts - 1

    def episodes(self) -> Iterator[tuple[str, Rows]]:
        """The rows of each episode."""
        if len(self.ids) == 1:
            return iter([(self.ids[0], self.rows)])
        stops = self.firsts + self.counts
        spans = list(map(slice, self.firsts.tolist(), stops.tolist()))
        return zip(self.ids, self.rows.cut(spans), strict=True)

    def transitions(self) -> Transitions:
        """The transitions of all of them; `schemas` is right for a single episode only."""
        if len(self.ids) == 1:
            return to_transitions(self.rows)
        steps = self.steps
        numbers = np.arange(steps.sum()) - (steps.cumsum() - steps).repeat(steps)
        before = self.firsts.repeat(steps) + numbers
        return transitions_between(self.rows, before, before + 1, numbers)


def read_blocks(
    connection: Connection, summaries: Sequence[StoredSummary]
) -> Iterator[tuple[int, list[Block]]]:
    """All steps that these summaries tell of.

    Yields:
        How many of the episodes are read to their end now, and the rows of some of them: of
        several episodes, or of a part of one that is long. A part begins with the last row of the
        part before.

    Raises:
        EpisodeNotFound: One of them has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    done = 0
    for trip, row_bytes in trips(connection, summaries):
        done += len(trip)
        if len(trip) == 1 and trip[0].steps * row_bytes > MAX_BYTES:
            size = max(1, int(MAX_BYTES / row_bytes))
            for start in range(0, trip[0].steps, size):
                stop = min(start + size, trip[0].steps)
                is_last = stop == trip[0].steps
                yield done - 1 + is_last, [_part(connection, trip[0].id, start, stop)]
        else:
            yield done, _whole(connection, trip)


def trips(
    connection: Connection, summaries: Iterable[_Listed], *, max_episodes: int = MAX_EPISODES
) -> Iterator[tuple[list[_Listed], float]]:
    """Episodes that are read in one round trip, and how many bytes a row of the last one takes."""
    known: dict[tuple[str, str], float] = {}
    trip, size, row_bytes = list[_Listed](), 0.0, 1.0
    for summary in summaries:
        kind, rows = (summary.run, summary.env_id), summary.steps + 1
        a_row = known.get(kind)
        if a_row is None:
            used = connection.store.memory(connection.keyspace.episode(summary.id))
            a_row = known[kind] = max(1.0, used / rows)
        more = a_row * rows
        if trip and (len(trip) == max_episodes or size + more > MAX_BYTES):
            yield trip, row_bytes
            trip, size = [], 0.0
        row_bytes = a_row
        trip.append(summary)
        size += more
    if trip:
        yield trip, row_bytes


def _part(connection: Connection, episode_id: str, start: int, stop: int) -> Block:
    """Some steps of one episode."""
    rows = Episode(connection, episode_id)._rows(start, stop + 1)
    return _single(episode_id, _complete(episode_id, start, stop + 1, rows))


def _complete(episode_id: str, start: int, stop: int, rows: Rows) -> Rows:
    """Rows of an episode, of which there are as many as its listing says.

    Raises:
        DecodeError: There are fewer.
    """
    if len(rows) < stop - start:
        raise DecodeError(
            f"episode {episode_id!r} is listed with {stop - 1} steps or more, and has "
            f"{max(0, start + len(rows) - 1)}"
        )
    return rows


def _single(episode_id: str, rows: Rows) -> Block:
    counts = np.array([len(rows)], np.int64)
    return Block([episode_id], counts, np.zeros_like(counts), rows.start, rows)


def _whole(connection: Connection, trip: Sequence[StoredSummary]) -> list[Block]:
    """Episodes as blocks: those of one schema together."""
    logs = connection.store.whole(connection.keyspace.episodes([one.id for one in trip]))
    for summary, log in zip(trip, logs, strict=True):
        if not log:
            raise EpisodeNotFound(f"episode {summary.id!r} is listed, but no longer there")
    blocks, others = _joined(connection, dict(enumerate(trip)), logs)
    for summary in (trip[place] for place in others):
        rows = Episode(connection, summary.id)._rows(0, summary.steps + 1)
        rows = _complete(summary.id, 0, summary.steps + 1, rows)
        blocks.append(_single(summary.id, rows))
    return blocks


class WholeEpisode(NamedTuple):
    """All that an episode's log holds.

    Attributes:
        id: The episode's id.
        status: As it is stored: where its writer has died, still `running`.
        origin: What it can be begun with again.
        rows: All of its rows.
    """

    id: str
    status: EpisodeStatus
    origin: EpisodeOrigin
    rows: Rows


def whole_episodes(connection: Connection, ids: Sequence[str]) -> list[Callable[[], WholeEpisode]]:
    """Everything of several episodes, in one round trip.

    Returns:
        For each a function that gives it, or raises what is wrong with it: `EpisodeNotFound`,
        `DecodeError`.
    """
    keys = connection.keyspace.episodes(ids)
    for key in keys:
        connection.settle(key)
    logs = connection.store.whole(keys)
    notes = list(map(_notes, ids, keys, logs))
    trip = {place: one[0] for place, one in enumerate(notes) if one is not None}
    blocks, _ = _joined(connection, trip, logs)
    joined = {id: rows for block in blocks for id, rows in block.episodes()}
    return [
        partial(_whole_episode, connection, id, one, joined.get(id))
        for id, one in zip(ids, notes, strict=True)
    ]


_Notes = tuple[StoredSummary, EpisodeOrigin]


def _notes(id: str, key: str, log: Sequence[bytes]) -> _Notes | None:
    """What the head of a log says of its episode; None if it has to be read by itself."""
    if not log:
        return None
    try:
        note = decode_head(log[0], where=key).note
        return decode_stored_note(note, episode_id=id, where=key)
    except DecodeError:
        return None


def _whole_episode(
    connection: Connection, id: str, notes: _Notes | None, rows: Rows | None
) -> WholeEpisode:
    if notes is not None and rows is not None:
        return WholeEpisode(id, notes[0].status, notes[1], rows)
    episode = Episode(connection, id)
    summary = episode.summary
    return WholeEpisode(id, summary.status, episode.origin, episode._rows())


def _joined(
    connection: Connection, trip: Mapping[int, Listed], logs: Sequence[Sequence[bytes]]
) -> tuple[list[Block], list[int]]:
    """Join episodes of one schema.

    Args:
        connection: The store.
        trip: The episodes, by the place of their log.
        logs: What each log holds.

    Returns:
        The blocks, and the places of the episodes that have to be read by themselves. They are
        those whose schema changes, that have another number of rows by now, or that are damaged:
        reading them by themselves tells what is wrong.
    """
    together: dict[bytes, _Together] = {}
    alike = defaultdict[_Kind, list[int]](list)
    others = []
    for place, summary in trip.items():
        log = logs[place]
        if len(log) == 2:
            batch = log[1]
            alike[batch[_SCHEMA], len(batch), summary.steps + 1].append(place)
        else:
            others.append(place)
    for (digest, _, count), places in alike.items():
        batches = [logs[place][1] for place in places]
        if not _are_joined(connection, digest, count, places, batches, together):
            others += places
    others = [
        place
        for place in sorted(others)
        if not _is_joined(connection, place, trip[place], logs[place][1:], together)
    ]
    return [one.block(trip) for one in together.values() if one.places], others


def _are_joined(
    connection: Connection,
    digest: bytes,
    count: int,
    places: Sequence[int],
    batches: Sequence[bytes],
    together: dict[bytes, _Together],
) -> bool:
    """Join the episodes at some places, of one batch and as many rows each, if these are plain."""
    if not all(map(is_whole, batches)):
        return False
    try:
        joined = _together(connection, digest, together)
    except DecodeError:
        return False
    if not joined.collector.add_alike(batches, count):
        return False
    joined.places.extend(places)
    joined.counts.extend([count] * len(places))
    return True


def _is_joined(
    connection: Connection,
    place: int,
    summary: Listed,
    batches: Sequence[bytes],
    together: dict[bytes, _Together],
) -> bool:
    """Join the episode at a place to those of its schema; False if it has to be read by itself."""
    row, joined, bodies, tails = 0, None, list[tuple[bytes, int]](), list[Tail]()
    for raw in batches:
        start, count, body = plain_batch(raw)
        if start != row or count == 0:
            return False
        try:
            its_own = _together(connection, body[:DIGEST_BYTES], together)
            tail = read_tail(body, its_own.schema, count, where=summary.id)
        except DecodeError:
            return False
        if tail.changes or its_own is not (joined or its_own):
            return False
        joined = its_own
        row += count
        bodies.append((body, count))
        tails.append(tail)
    if joined is None or row != summary.steps + 1:
        return False
    joined.collector.add(bodies, tails)
    joined.places.append(place)
    joined.counts.append(row)
    return True


def _together(connection: Connection, digest: bytes, together: dict[bytes, _Together]) -> _Together:
    """Where the episodes of a schema are joined."""
    joined = together.get(digest)
    if joined is None:
        name = digest.hex()
        blob = connection.store.blobs.get(name)
        schema = StepSchema.from_blob(blob, where=connection.keyspace.blob(name))
        joined = together[digest] = _Together(schema, RowCollector(schema), [], [])
    return joined


class _Together(NamedTuple):
    """Episodes of one schema: their places among those asked for, in the order of their rows."""

    schema: StepSchema
    collector: RowCollector
    places: list[int]
    counts: list[int]

    def block(self, trip: Mapping[int, Listed]) -> Block:
        """Their rows; `trip` has all episodes asked for, by their places."""
        places, counts = np.array(self.places), np.array(self.counts, np.int64)
        order, firsts = places.argsort(), counts.cumsum() - counts
        ids = [trip[place].id for place in places[order].tolist()]
        return Block(ids, counts[order], firsts[order], 0, self.collector.rows())
