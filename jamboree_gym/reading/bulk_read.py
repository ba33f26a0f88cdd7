"""Many episodes read at once: as many in a round trip as memory is meant for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from jamboree_gym.encoding.summary_codec import StoredSummary, decode_episode_note
from jamboree_gym.errors import DecodeError, EpisodeNotFound
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.row_arrays import to_transitions, transitions_between
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary, Transitions

__all__ = ["Block", "Listed", "WholeEpisode", "read_blocks", "trips", "whole_episodes"]

MAX_EPISODES = 4000
MAX_BYTES = 8 << 20
_SCHEMA = slice(BATCH_BODY, BATCH_BODY + DIGEST_BYTES)


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
    """Rows of several episodes, one after the other, with the same columns.

    Attributes:
        ids: The episodes.
        counts: Number of rows of each.
        start: Row number of the first one; 0 where there are several episodes.
        rows: The rows.
    """

    ids: Sequence[str]
    counts: npt.NDArray[np.int64]
    start: int
    rows: Rows

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Number of transitions of each episode."""
        return self.counts - 1

    def episodes(self) -> Iterator[tuple[str, Rows]]:
        """The rows of each episode."""
        if len(self.ids) == 1:
            yield self.ids[0], self.rows
            return
        ends = self.counts.cumsum().tolist()
        for id, end, count in zip(self.ids, ends, self.counts.tolist(), strict=True):
            yield id, replace(self.rows[end - count : end], start=0)

    def transitions(self) -> Transitions:
        """The transitions of all of them; `schemas` is right for a single episode only."""
        rows = self.rows
        if len(self.ids) == 1:
            return to_transitions(rows)
        firsts = self.counts.cumsum() - self.counts
        is_step = np.ones(len(rows), np.bool_)
        is_step[firsts] = False
        has_next = np.roll(is_step, -1)
        numbers = np.arange(len(rows), dtype=np.int64) - firsts.repeat(self.counts)
        return transitions_between(rows, has_next, is_step, numbers[has_next])


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
        kind = summary.run, summary.env_id
        if kind not in known:
            used = connection.store.memory(connection.keyspace.episode(summary.id))
            known[kind] = max(1.0, used / (summary.steps + 1))
        more = known[kind] * (summary.steps + 1)
        if trip and (len(trip) == max_episodes or size + more > MAX_BYTES):
            yield trip, row_bytes
            trip, size = [], 0.0
        row_bytes = known[kind]
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
    return Block([episode_id], np.array([len(rows)], np.int64), rows.start, rows)


def _whole(connection: Connection, trip: Sequence[StoredSummary]) -> list[Block]:
    """Episodes as blocks: those of one schema together."""
    keys = [connection.keyspace.episode(summary.id) for summary in trip]
    logs = connection.store.whole(keys)
    together: dict[bytes, _Together] = {}
    alike: dict[tuple[bytes, int, int], list[int]] = {}  # by schema, size and rows of the one batch
    others = []
    for position, (summary, log) in enumerate(zip(trip, logs, strict=True)):
        if not log:
            raise EpisodeNotFound(f"episode {summary.id!r} is listed, but no longer there")
        if len(log) == 2 and is_whole(log[1]):
            kind = log[1][_SCHEMA], len(log[1]), summary.steps + 1
            alike.setdefault(kind, []).append(position)
        else:
            others.append(position)
    for (digest, _, count), positions in alike.items():
        joined = _together(connection, digest, together)
        if joined.collector.add_alike([logs[position][1] for position in positions], count):
            joined.ids.extend(trip[position].id for position in positions)
            joined.counts.extend([count] * len(positions))
        else:
            others += positions
    others = [at for at in others if not _is_joined(connection, trip[at], logs[at][1:], together)]
    blocks = [one.block() for one in together.values() if one.ids]
    for summary in (trip[position] for position in sorted(others)):
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
    keys = [connection.keyspace.episode(id) for id in ids]
    for key in keys:
        connection.settle(key)
    together: dict[bytes, _Together] = {}
    logs = zip(ids, keys, connection.store.whole(keys), strict=True)
    notes = {id: _joined_notes(connection, id, key, log, together) for id, key, log in logs}
    blocks = [one.block() for one in together.values() if one.ids]
    joined = {id: rows for block in blocks for id, rows in block.episodes()}
    return [partial(_whole_episode, connection, id, notes[id], joined.get(id)) for id in ids]


_Notes = tuple[EpisodeSummary, EpisodeOrigin]


def _joined_notes(
    connection: Connection,
    id: str,
    key: str,
    log: Sequence[bytes],
    together: dict[bytes, _Together],
) -> _Notes | None:
    """Join an episode to those of its schema; None if it has to be read by itself."""
    if not log:
        return None
    try:
        note = decode_head(log[0], where=key).note
        summary, origin = decode_episode_note(note, episode_id=id, where=key)
        is_joined = _is_joined(connection, summary, log[1:], together)
    except DecodeError:
        return None
    return (summary, origin) if is_joined else None


def _whole_episode(
    connection: Connection, id: str, notes: _Notes | None, rows: Rows | None
) -> WholeEpisode:
    if notes is not None and rows is not None:
        return WholeEpisode(id, notes[0].status, notes[1], rows)
    episode = Episode(connection, id)
    summary = episode.summary
    return WholeEpisode(id, summary.status, episode.origin, episode._rows())


def _is_joined(
    connection: Connection,
    summary: Listed,
    batches: Sequence[bytes],
    together: dict[bytes, _Together],
) -> bool:
    """Join an episode to those of its schema; False if it has to be read by itself.

    That is where its schema changes, where it has another number of rows by now, or is damaged:
    reading it by itself tells what is wrong.
    """
    row, joined, bodies, tails = 0, None, list[tuple[bytes, int]](), list[Tail]()
    for raw in batches:
        start, count, body = plain_batch(raw)
        if start != row or count == 0:
            return False
        its_own = _together(connection, body[:DIGEST_BYTES], together)
        if its_own is not (joined or its_own):
            return False
        joined = its_own
        try:
            tail = read_tail(body, joined.schema, count, where=summary.id)
        except DecodeError:
            return False
        if tail.changes:
            return False
        row += count
        bodies.append((body, count))
        tails.append(tail)
    if joined is None or row != summary.steps + 1:
        return False
    joined.collector.add(bodies, tails)
    joined.ids.append(summary.id)
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
    """Episodes of one schema."""

    schema: StepSchema
    collector: RowCollector
    ids: list[str]
    counts: list[int]

    def block(self) -> Block:
        return Block(self.ids, np.array(self.counts, np.int64), 0, self.collector.rows())
