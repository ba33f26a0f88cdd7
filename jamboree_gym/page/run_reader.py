"""Reads the episodes of a run again and again, each that is over once, and keeps them encoded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.reading.finding.known_ids import IdsOfPart, KnownIds, packed_ids
from jamboree_gym.reading.finding.summaries import mark_interrupted, read_some_summaries
from jamboree_gym.records import EpisodeStatus
from jamboree_gym.store.protocol import ListingPart

__all__ = ["NUMBERS", "STATUSES", "PackedSummaries", "Portion", "RunReader"]

PORTION: Final = 4096  # summaries
_MAY_CHANGE: Final = ("running", "interrupted")
NUMBERS: Final = ("started_at", "episode_return", "steps", "elapsed_s")
STATUSES: Final = np.array(get_args(EpisodeStatus), object)
_NUMBER_OF: Final = {name: number for number, name in enumerate(STATUSES)}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredSummary).decode


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """Some summaries. It is never changed, so newer listings share it with older ones.

    Attributes:
        content: The summaries without their ids, encoded, one behind the other.
        ends: uint32 (n + 1,), where each ends in `content`, after a 0.
        columns: What is asked of all episodes at once, each of (n,).
        env_ids: Ids of the environments of those that are no experiments.
    """

    content: bytes
    ends: npt.NDArray[np.uint32]
    columns: Mapping[str, npt.NDArray[Any]]
    env_ids: frozenset[str]

    @classmethod
    def of(cls, summaries: Sequence[StoredSummary]) -> Portion:
        """Pack some summaries."""
        columns: dict[str, npt.NDArray[Any]] = {
            name: np.array([getattr(one, name) for one in summaries], np.float64)
            for name in NUMBERS
        }
        columns["id"] = packed_ids([one.id for one in summaries])
        columns["status"] = np.array([_NUMBER_OF[one.status] for one in summaries], np.uint8)
        columns["is_own"] = np.array([not one.is_experiment for one in summaries], np.bool_)
        columns["has_returns"] = np.array([one.returns is not None for one in summaries], np.bool_)
        contents = [_encode(replace(one, id="")) for one in summaries]
        ends = np.cumsum([0, *map(len, contents)], dtype=np.uint32)
        env_ids = frozenset(one.env_id for one in summaries if not one.is_experiment)
        return cls(b"".join(contents), ends, columns, env_ids)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def summaries(self) -> list[StoredSummary]:
        """All of them."""
        return list(map(self.summary, range(len(self))))

    def summary(self, at: int) -> StoredSummary:
        """One of them."""
        one = _decode(self.content[self.ends[at] : self.ends[at + 1]])
        one.id = self.columns["id"][at].decode()
        return one


class PackedSummaries(Sequence[StoredSummary]):
    """The episodes of a run by their start; if two began at the same time, by id.

    Args:
        portions: Their summaries.
        places: Which of them, in this order; None = all.
    """

    def __init__(
        self, portions: Sequence[Portion] = (), places: npt.NDArray[np.int32] | None = None
    ) -> None:
        self._portions = portions
        self._starts = np.cumsum([0, *map(len, portions)])
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self._places = self._by_start() if places is None else places

    def at(self, rows: npt.NDArray[np.int64]) -> PackedSummaries:
        """Those of some rows."""
        return PackedSummaries(self._portions, self._places[rows])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[at] for at in range(*row.indices(len(self)))]
        place = int(self._places[row])
        portion = bisect_right(self._starts, place) - 1
        return self._portions[portion].summary(place - int(self._starts[portion]))

    def __iter__(self) -> Iterator[StoredSummary]:
        return map(self.__getitem__, range(len(self)))

    @property
    def env_ids(self) -> frozenset[str]:
        """Ids of the environments of those that are no experiments."""
        return frozenset().union(*(portion.env_ids for portion in self._portions))

    def column(self, name: str) -> npt.NDArray[Any]:
        """One of `Portion.columns`, in their order."""
        known = self._columns.get(name)
        if known is None:
            known = self._columns[name] = self._unordered(name)[self._places]
        return known

    def rows_of(self, ids: Collection[str]) -> npt.NDArray[np.bool_]:
        """Which of them have one of these ids."""
        wanted = packed_ids(ids)
        parts = [np.isin(portion.columns["id"], wanted) for portion in self._portions]
        found: npt.NDArray[np.bool_] = np.concatenate([np.zeros(0, np.bool_), *parts])
        return found[self._places]

    def row_of(self, id: str) -> int | None:
        """Where an episode is; None if it is none of them."""
        rows = self.rows_of([id]).nonzero()[0]
        return int(rows[0]) if len(rows) else None

    def _by_start(self) -> npt.NDArray[np.int32]:
        times = self._unordered("started_at")
        places = times.argsort(kind="stable")
        in_order = times[places]
        if (in_order[1:] == in_order[:-1]).any():
            places = np.lexsort((self._unordered("id"), times))
        return places.astype(np.int32)

    def _unordered(self, name: str) -> npt.NDArray[Any]:
        parts = [portion.columns[name] for portion in self._portions]
        return np.concatenate(parts or [_NO_SUMMARIES.columns[name]])


_NO_SUMMARIES: Final = Portion.of(())


class RunReader:
    """Reads the episodes of a run. For one thread at a time.

    Args:
        connection: The store.
        ids: The ids of its episodes.
        run: Name of the run.
    """

    def __init__(self, connection: Connection, ids: KnownIds, run: str) -> None:
        self._connection = connection
        self._ids = ids
        self._run = run
        self._forget()

    def _forget(self) -> None:
        self._parts: Mapping[ListingPart, IdsOfPart] = {}
        self._full: Sequence[Portion] = ()  # of episodes that are over
        self._rest = Portion.of(())  # those that are over, and too few for another one
        self._open: Sequence[str] = ()  # ids of those that may change, and that could not be read
        self._found = PackedSummaries()

    def read(self) -> PackedSummaries:
        """The episodes now; the same object if there are no new ones, and none may change."""
        parts = self._ids.of(self._run)
        if not all(_has_only_grown(known, parts.get(part)) for part, known in self._parts.items()):
            self._forget()
        unread = [*self._open, *self._new_ids(parts)]
        if unread:
            self._read(unread)
        self._parts = parts
        return self._found

    def _new_ids(self, parts: Mapping[ListingPart, IdsOfPart]) -> Iterator[str]:
        for part, now in parts.items():
            known = self._parts.get(part)
            if known is not now:
                new = now.ids if known is None else np.setdiff1d(now.ids, known.ids)
                yield from (id.decode() for id in new.tolist())

    def _read(self, ids: Sequence[str]) -> None:
        full, over = [*self._full], self._rest.summaries()
        others: Found = []
        unread = set(ids)
        for found in read_some_summaries(self._connection, self._run, ids):
            final = [one for one in found if one.status not in _MAY_CHANGE]
            unread -= {one.id for one in final}
            over += [one for one in final if one.run == self._run]
            others += [one for one in found if one.status in _MAY_CHANGE and one.run == self._run]
            while len(over) >= PORTION:
                full.append(Portion.of(over[:PORTION]))
                del over[:PORTION]
        mark_interrupted(self._connection, others)
        self._rest = Portion.of(over)
        self._full, self._open = full, sorted(unread)
        self._found = PackedSummaries([*full, self._rest, Portion.of(others)])


def _has_only_grown(known: IdsOfPart, now: IdsOfPart | None) -> bool:
    """Whether nothing can have gone from a part since it was read."""
    return now is not None and bool(now.state.life) and now.state.life == known.state.life
