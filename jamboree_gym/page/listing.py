"""The episodes of each run, kept for a moment: many looks at the page cost the store one read."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.connection import Connection
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.page.curves import Finished
from jamboree_gym.page.run_reader import NUMBERS, STATUSES, PackedSummaries, RunReader
from jamboree_gym.reading.finding.known_ids import KnownIds
from jamboree_gym.runs.run_summary import EpisodeColumns
from jamboree_gym.tables.expressions import Condition
from jamboree_gym.tables.summary_table import to_summary_table

__all__ = ["Kept", "KeptByName", "Listing", "ListingPage", "Listings"]

SHORTEST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0
SHARE: Final = 9  # a read that took t seconds is not repeated before 9 t: a tenth of a core at most
MAX_RUNS: Final = 200
MAX_ORDERS: Final = 32
MAX_ROWS: Final = 500

_T = TypeVar("_T")
SORTABLE: Final = (*NUMBERS, "status", "seed")


class Kept(Generic[_T]):
    """A value that is read again at times: the longer a read takes, the less often.

    Args:
        read: Reads it.
        is_same: Whether nothing has changed between two values: then the next read has time.
    """

    def __init__(self, read: Callable[[], _T], is_same: Callable[[_T, _T], bool]) -> None:
        self._read = read
        self._is_same = is_same
        self._lock = threading.Lock()
        self._value: _T | None = None
        self._read_at = 0.0
        self._pause_s = SHORTEST_PAUSE_S

    def get(self) -> _T:
        """The value, at most as old as its pause; read by one thread, for all that wait for it."""
        with self._lock:
            if self._value is None or time.monotonic() >= self._read_at + self._pause_s:
                self._refresh()
            assert self._value is not None
            return self._value

    def at_once(self) -> _T:
        """The value that is there, however old; read only if there is none."""
        value = self._value
        return self.get() if value is None else value

    def _refresh(self) -> None:
        began = time.monotonic()
        value = self._read()
        self._read_at = time.monotonic()
        least = max(SHORTEST_PAUSE_S, SHARE * (self._read_at - began))
        if self._value is not None and self._is_same(self._value, value):
            self._pause_s = max(least, min(2 * self._pause_s, LONGEST_PAUSE_S / 5))
        else:
            self._pause_s = least
            self._value = value


class KeptByName(Generic[_T]):
    """A kept value for each name: of those that were asked for last, at most `most`.

    Args:
        reader: Gives the function that reads the value of a name.
        is_same: As in `Kept`.
        most: How many.
    """

    def __init__(
        self,
        reader: Callable[[str], Callable[[], _T]],
        is_same: Callable[[_T, _T], bool],
        most: int,
    ) -> None:
        self._reader = reader
        self._is_same = is_same
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Kept[_T]] = OrderedDict()

    def of(self, name: str) -> Kept[_T]:
        """The value of a name."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                kept = self._kept[name] = Kept(self._reader(name), self._is_same)
            self._kept.move_to_end(name)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return kept

    def forget(self, name: str) -> None:
        """Read it again at the next question."""
        with self._lock:
            self._kept.pop(name, None)


@dataclass(frozen=True, eq=False)
class Listing:
    """The episodes of a run by their start, forks included.

    Attributes:
        found: Their summaries.
        version: Changes with each read that found something new.
    """

    found: PackedSummaries
    version: int
    _orders: OrderedDict[tuple[Any, ...], npt.NDArray[np.int64]] = field(
        default_factory=OrderedDict, repr=False
    )

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A field of all summaries as float64 (n,)."""
        return self.found.column(name)

    @cached_property
    def status(self) -> npt.NDArray[np.object_]:
        """The status of each."""
        found: npt.NDArray[np.object_] = STATUSES[self.found.column("status")]
        return found

    @cached_property
    def is_own(self) -> npt.NDArray[np.bool_]:
        """Which are no experiments: forks of an episode of the same run."""
        return self.found.column("is_own")

    @cached_property
    def own(self) -> PackedSummaries:
        """Without experiments."""
        return self.found if self.is_own.all() else self.found.at(self.is_own.nonzero()[0])

    @property
    def columns(self) -> EpisodeColumns:
        """What a summary of the run takes from `own`."""
        names = ("steps", "episode_return", "started_at", "elapsed_s", "has_returns")
        columns = {name: self.own.column(name) for name in names}
        return EpisodeColumns(self.found.env_ids, STATUSES[self.own.column("status")], **columns)

    @cached_property
    def ended_at(self) -> npt.NDArray[np.float64]:
        """When the newest step of each was taken, epoch seconds."""
        return self.numbers("started_at") + self.numbers("elapsed_s")

    @cached_property
    def finished(self) -> Finished:
        """Those that reached their end, in the order of their ends; if none did, all that are over.

        The return of an episode that was cut off says nothing of the policy.
        """
        over = self.is_own & np.isin(self.status, ("terminated", "truncated"))
        if not over.any():
            over = self.is_own & (self.status != "running")
        rows = over.nonzero()[0]
        rows = rows[self.ended_at[rows].argsort(kind="stable")]
        has_several = self.found.column("has_returns")[rows]
        several = [self.found[row].returns or () for row in rows] if has_several.all() else []
        is_one_size = len(set(map(len, several))) == 1
        return Finished(
            self.numbers("episode_return")[rows],
            self.numbers("steps")[rows],
            self.ended_at[rows],
            np.array(several, np.float64) if is_one_size else None,
        )

    @cached_property
    def standing(self) -> tuple[Any, ...]:
        """Equal where nothing that is shown has changed."""
        return len(self.found), float(self.numbers("steps").sum()), Counter(self.status.tolist())

    def chosen(
        self,
        where: str = "",
        status: str = "",
        sort: str = "-started_at",
        forks: bool = False,
        among: frozenset[str] | None = None,
    ) -> npt.NDArray[np.int64]:
        """Positions of the episodes that are asked for, in the order that is asked for.

        Raises:
            InvalidExpression: The condition cannot be understood.
            InvalidArgument: There is no such column to sort by.
        """
        asked = (where, status, sort, forks, among)
        known = self._orders.get(asked)
        if known is None:
            known = self._orders[asked] = self._choose(*asked)
            while len(self._orders) > MAX_ORDERS:
                self._orders.popitem(last=False)
        return known

    def _choose(
        self, where: str, status: str, sort: str, forks: bool, among: frozenset[str] | None
    ) -> npt.NDArray[np.int64]:
        wanted = np.ones(len(self.found), np.bool_) if forks else self.is_own.copy()
        if where.strip() and len(self.found):
            wanted &= Condition(where).rows_of(_SummaryColumns(self), len(self.found))
        if status:
            wanted &= self.status == status
        if among is not None:
            wanted &= self.found.rows_of(among)
        rows = wanted.nonzero()[0]
        return rows[self._order(rows, sort)]

    def _order(self, rows: npt.NDArray[np.int64], sort: str) -> npt.NDArray[np.int64]:
        name, is_descending = sort.removeprefix("-"), sort.startswith("-")
        if name not in SORTABLE:
            raise InvalidArgument(f"sort={name!r}: choose one of {', '.join(SORTABLE)}")
        if name in NUMBERS:
            values = self.numbers(name)[rows]
            # Stable in both directions, and NaN last in both.
            return np.lexsort((-values if is_descending else values, np.isnan(values)))
        if name == "status":
            keys: list[Any] = self.status[rows].tolist()
        else:
            keys = [_seed_key(self.found[row].decoded_seed()) for row in rows]
        places = sorted(range(len(keys)), key=keys.__getitem__, reverse=is_descending)
        return np.array(places, np.int64)


def _seed_key(seed: Any) -> tuple[bool, int, str]:
    """Numbers as such, then what is no number."""
    is_number = isinstance(seed, int)
    return not is_number, seed if is_number else 0, str(seed)


class _SummaryColumns(Mapping[str, Any]):
    """The columns of `summary_table()`; the usual ones without the rest of the table."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing

    @cached_property
    def _table(self) -> pa.Table:
        return to_summary_table(list(self._listing.found))

    def __getitem__(self, name: str) -> Any:
        if name in NUMBERS:
            return self._listing.numbers(name)
        if name == "status":
            return self._listing.status
        if name not in self._table.column_names:
            raise KeyError(name)
        return self._table[name].combine_chunks()

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return len(self._table.column_names)


@dataclass(frozen=True, slots=True)
class ListingPage:
    """A part of a listing, and where the next one begins."""

    listing: Listing
    rows: npt.NDArray[np.int64]
    total: int
    start: int


class Listings:
    """The listings of the runs of a store.

    Args:
        connection: The store.
        ids: The ids of its episodes.
    """

    def __init__(self, connection: Connection, ids: KnownIds) -> None:
        self._connection = connection
        self._ids = ids
        self._kept = KeptByName(self._reader, _is_same, MAX_RUNS)
        self._versions = count(1)

    def of(self, run: str) -> Kept[Listing]:
        """That of a run; a run that is not there has no episodes."""
        return self._kept.of(run)

    def _reader(self, run: str) -> Callable[[], Listing]:
        reader = RunReader(self._connection, self._ids, run)
        return lambda: Listing(reader.read(), next(self._versions))

    def page(self, run: str, start: int, rows: int, **asked: Any) -> ListingPage:
        """Some episodes of a run.

        Raises:
            JamboreeError: As `Listing.chosen`, or the store does not answer.
        """
        if start < 0 or not 0 < rows <= MAX_ROWS:
            raise InvalidArgument(f"start={start}, count={rows}: at most {MAX_ROWS} rows at once")
        listing = self.of(run).at_once()
        chosen = listing.chosen(**asked)
        return ListingPage(listing, chosen[start : start + rows], len(chosen), start)


def _is_same(one: Listing, other: Listing) -> bool:
    return one.standing == other.standing
