"""What every store of logs offers to writers and readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from jamboree_gym.encoding.batch_format import Batch, Head
from jamboree_gym.errors import JamboreeError
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import Append, AppendResult, Asked, IndexEntry, LogSlice

__all__ = ["BlobReader", "ListingPart", "ListingReader", "LogStore", "PartState"]


class ListingPart(NamedTuple):
    """A part of the listing of a run.

    Attributes:
        run: The run.
        place: Which part.
    """

    run: str
    place: int


class PartState(NamedTuple):
    """How a part of a listing stands. Where two are equal, the part had the same episodes.

    Attributes:
        life: Another one once an episode was deleted, or Redis emptied: until then episodes are
            only added. Empty where that is not known.
        size: Number of episodes.
    """

    life: str
    size: int


class ListingReader(Protocol):
    """Reads the listings, which are written with the logs (`Append.entry`)."""

    def runs(self) -> list[str]:
        """Names of all runs, the one written last at the end."""

    def summaries(self, run: str) -> dict[str, bytes]:
        """All summaries of a run by episode id."""

    def ids(self, runs: Sequence[str]) -> set[str]:
        """Ids of all episodes of some runs."""

    def parts(self, runs: Sequence[str]) -> dict[ListingPart, PartState]:
        """The parts of the listings of some runs; those without an episode are left out."""

    def ids_of(self, part: ListingPart) -> list[str]:
        """Ids of the episodes of a part."""

    def some_summaries(self, run: str, ids: Sequence[str]) -> Iterator[dict[str, bytes]]:
        """Summaries of some episodes of a run by id, some thousand at a time; not of lost ones."""


class BlobReader(Protocol):
    """Reads immutable content, which is written with the logs (`Append.blobs`)."""

    def get(self, name: str) -> bytes:
        """Content by its digest.

        Raises:
            DecodeError: It is gone, or damaged.
        """


class LogStore(Protocol):
    """The logs of one namespace. What each method has to do, `tests/store/contract.py` checks.

    Each method may raise `StoreUnavailable`; those that read, also `DecodeError` for damaged bytes.

    Attributes:
        keyspace: Names of all keys.
        listings: Summaries of episodes by run.
        blobs: Immutable content by digest.
        is_followed: Whether somebody followed what is written, at the last append.
    """

    keyspace: Keyspace
    is_followed: bool
    listings: ListingReader
    blobs: BlobReader

    @property
    def where(self) -> str:
        """Host and port, or socket path; never a user or a password."""

    @property
    def losses(self) -> int:
        """How many connections were lost, and how often the server was found emptied.

        What was known of it before may be untrue.
        """

    def append(
        self,
        appends: Sequence[Append],
        *,
        fsync: bool = False,
        prepare: Callable[[], None] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[AppendResult | JamboreeError]:
        """Append to several logs in one round trip, atomically for each of them.

        Sending the same append again is harmless: a batch that is already there is not added.

        Args:
            appends: What to append.
            fsync: Whether to wait until the server has it on disk.
            prepare: Called before each try, of which there are more where the server was emptied.
            meanwhile: Called while the server works on a try; a store may do without.

        Returns:
            For each append the decision, or why this one log cannot be written. A `StoreFull` says
            that nothing was stored by this append, as the server has no memory or disk left.

        Raises:
            StoreUnavailable: No answer; what was sent may or may not be stored. Send it again.
            StoreFull: The server has no memory or disk left, and an earlier try may be stored.
        """

    def ask_for(self, appends: Sequence[Append]) -> Asked:
        """Bring back what a backup holds of these logs, and say what is stored of the appends.

        This may take a while.
        """

    def epoch(self, keys: Iterable[str] | None = None) -> str:
        """The epoch of the namespace. Where it is another than before, the store was emptied.

        Args:
            keys: Only as far as these logs are concerned; None = all.

        Raises:
            AccessRefused: There is none, and this user may not write.
        """

    def pop(
        self, key: str, n: int, *, first: int | None = None
    ) -> tuple[int, int, list[Batch]] | None:
        """Take the n oldest records off a log.

        Args:
            key: The log.
            n: How many.
            first: The oldest, where the caller has read them already.

        Returns:
            First index taken, the index after the last, and the batches that hold them. None where
            a backup alone holds some of these: nothing is taken unless `first` is right.
        """

    def delete(
        self, key: str, *, entry: IndexEntry | None = None, born: float | None = None
    ) -> float | None:
        """Delete a log and its listing; no late copy or append brings it back.

        Args:
            key: The log.
            entry: Where it is listed.
            born: Its birth, where it is known from elsewhere; else that of the log here.

        Returns:
            Its birth, None where there was no log and none was given.
        """

    def select(self, key: str, *how: Any) -> LogSlice | None:
        """A part of one log; None when there is no such log.

        `how` is `("range", start, stop)`, `("last", n)`, `("between", t0, t1, before)` or
        `("as_of", t, before)`, times as text: see `read`, `last`, `between` and `as_of`.
        """

    def read(self, key: str, start: int, stop: int) -> LogSlice | None:
        """Batches that hold any index in `[start, stop)`; None when there is no such log."""
        return self.select(key, "range", start, stop)

    def last(self, key: str, n: int) -> LogSlice | None:
        """Batches that hold any of the newest n records."""
        return self.select(key, "last", n)

    def between(self, key: str, t0: float, t1: float, *, before: int = 0) -> LogSlice | None:
        """Batches with any record of t0 <= timestamp <= t1, and `before` batches before them."""
        return self.select(key, "between", repr(float(t0)), repr(float(t1)), before)

    def as_of(self, key: str, t: float, *, before: int = 0) -> LogSlice | None:
        """The batch that holds the newest record with timestamp <= t, and `before` before it."""
        return self.select(key, "as_of", repr(float(t)), before)

    def read_many(
        self, keys: Sequence[str], reads: Sequence[tuple[Any, ...]]
    ) -> list[LogSlice | None]:
        """Slices of several logs, by `("range", start, stop)` or `("last", n)`; one round trip."""

    def whole(self, keys: Sequence[str]) -> list[list[bytes]]:
        """All that several logs hold: head and batches, undecoded; empty for no such log."""

    def head(self, key: str) -> Head | None:
        """The head of a log, None when there is no such log."""

    def count(self, key: str) -> int:
        """Number of readable records in a log."""
        head = self.head(key)
        return 0 if head is None else head.count - head.first

    def memory(self, key: str) -> int:
        """Bytes that a log takes up in the server, roughly; 0 when there is no such log."""

    def close(self) -> None:
        """Close all connections. Twice is quiet."""

    def after_fork_in_child(self) -> None:
        """Leave the connections to the parent process."""
