"""Names that users type: ids of episodes, also their first letters, and names of runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from jamboree_gym.connection import Connection
from jamboree_gym.errors import EpisodeNotFound, InvalidArgument, RunNotFound
from jamboree_gym.reading.finding.known_ids import IdsOfPart, KnownIds, PackedIds, packed_ids
from jamboree_gym.store.protocol import ListingPart
from jamboree_gym.wording import one_line, shortened

__all__ = [
    "HasId",
    "RunNames",
    "ShortIds",
    "ShortIdsOfStore",
    "all_ids",
    "brief_id",
    "check_runs",
    "full_id",
    "id_of",
    "run_names",
    "short_ids",
]

RunNames = str | Sequence[str]
"""The name of a run, or the names of several."""

MAX_NAMED = 10  # names of runs that an error lists
MAX_IDS = 3
MIN_BEGINNING = 6  # ids begin with their time, in milliseconds: 6 of 12 digits are some 5 hours
SHORTEST = 8  # digits of an id that are shown: what begins a minute later has others
LONGEST = 14
COMPARED = 32  # bytes of an id: a longer one, which is none of ours, is its own short form
DIGITS_OF_TIME = 12  # milliseconds
LAST_DIGITS = 4
DOTS = ".."
MAX_LETTERS = 60  # of a name
_FULL_ID = re.compile(r"[0-9a-f]{32}")


@runtime_checkable
class HasId(Protocol):
    """An `Episode`."""

    id: str


def id_of(connection: Connection, episode: HasId | str) -> str:
    """The full id of an episode that is given as such, by its id or by the id's beginning.

    Raises:
        EpisodeNotFound: Several ids begin like that; names some.
        InvalidArgument: It is neither an episode nor a text.
    """
    if isinstance(episode, str):
        return full_id(connection, episode)
    id = getattr(episode, "id", None)
    if not isinstance(id, str):
        raise InvalidArgument(
            f"{episode!r:.80} is no episode: give one of jam.episodes(), or an id such as '01a21f'"
        )
    return id


def full_id(connection: Connection, id: str) -> str:
    """The id that begins like this; a full id costs nothing, another one a read of the listings.

    `01a22a38..0002` begins with the first and ends with the last digits.

    Where there is none, the text comes back as it is: reading it raises `EpisodeNotFound`.

    Raises:
        EpisodeNotFound: Several ids begin like that; names some.
        InvalidArgument: The text is empty, or too short a beginning to say which episode is meant.
    """
    if _FULL_ID.fullmatch(id):
        return id
    if not id:
        raise InvalidArgument("the id of an episode is empty: give the id, or its beginning")
    ids = all_ids(connection)
    if id in ids:
        return id
    first, dots, last = id.partition(DOTS)
    found = sorted(one for one in ids if one.startswith(first) and one.endswith(last))
    if len(found) > 1:
        how = "are like" if dots else "begin with"
        raise EpisodeNotFound(
            f"{len(found)} episodes {how} {id!r}: give more of the id, as one of "
            f"{_listed(found, MAX_IDS)}"
        )
    if found and len(id) < MIN_BEGINNING:
        raise InvalidArgument(
            f"{id!r} is too short: an id begins with its time, so only by chance it means one "
            f"episode; give {MIN_BEGINNING} digits or more"
        )
    return found[0] if found else id


def all_ids(connection: Connection) -> set[str]:
    """Ids of all episodes of a store."""
    connection.settle_all()
    listings = connection.store.listings
    return listings.ids(listings.runs())


class ShortIds:
    """The shortest beginning of each id that no other id has, `SHORTEST` digits at least.

    Episodes that a process begins at the same moment differ only at their end: then it is the
    first digits, two dots and the last four digits.

    Args:
        ids: All ids.
    """

    def __init__(self, ids: PackedIds) -> None:
        self._ids = np.sort(ids.astype(f"S{COMPARED}"))

    @cached_property
    def _ends(self) -> npt.NDArray[np.bytes_]:
        """The first and last digits of each id, sorted."""
        ids = self._ids
        if not len(ids):
            return ids
        digits = ids.view(np.uint8).reshape(len(ids), -1)
        last = np.char.str_len(ids)[:, None] + np.arange(-LAST_DIGITS, 0)
        ends = np.take_along_axis(digits, np.maximum(last, 0), axis=1)
        both = np.hstack((digits[:, :SHORTEST], ends))
        return np.sort(np.ascontiguousarray(both).view(f"S{SHORTEST + LAST_DIGITS}")[:, 0])

    def of(self, id: str) -> str:
        """The short form of one of the ids; of another one comes `brief_id`."""
        ids, encoded = self._ids, id.encode(errors="replace")
        if len(encoded) > COMPARED:
            return id
        at = int(ids.searchsorted(encoded))
        if at == len(ids) or ids[at] != encoded:
            return brief_id(id)
        beside = [one.decode() for one in ids[max(0, at - 1) : at + 2] if one != encoded]
        shared = max((_shared_digits(one, id) for one in beside), default=0)
        if shared < LONGEST:
            return id[: max(SHORTEST, shared + 1)]
        last = encoded[-LAST_DIGITS:]
        if _count(self._ends, encoded[:SHORTEST] + last) == 1:
            return f"{id[:SHORTEST]}{DOTS}{id[-LAST_DIGITS:]}"
        first = encoded[:DIGITS_OF_TIME]
        moment = ids[ids.searchsorted(first) : ids.searchsorted(first + b"\xff")]
        if np.char.endswith(moment, last).sum() == 1:
            return brief_id(id)
        return id[: shared + 1]


class ShortIdsOfStore:
    """The short ids of all episodes of a store. For one thread at a time.

    Args:
        ids: Reads the ids.
    """

    def __init__(self, ids: KnownIds) -> None:
        self._ids = ids
        self._parts: Mapping[ListingPart, IdsOfPart] = {}
        self._short = ShortIds(packed_ids(()))

    def read(self) -> ShortIds:
        """The short ids now; the same object as before if no episode has come or gone."""
        parts = self._ids.all()
        if parts is not self._parts:
            found = [one.ids for one in parts.values()]
            self._short = ShortIds(np.concatenate(found) if found else packed_ids(()))
            self._parts = parts
        return self._short


def _count(values: npt.NDArray[np.bytes_], one: bytes) -> int:
    """How often a value is among sorted ones."""
    return int(values.searchsorted(one, side="right") - values.searchsorted(one))


def brief_id(id: str) -> str:
    """The first and the last digits of an id: when it began, and its number in its process."""
    return f"{id[:DIGITS_OF_TIME]}{DOTS}{id[-LAST_DIGITS:]}"


def _shared_digits(one: str, other: str) -> int:
    """How many digits two ids have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    differ = (at for at, pair in enumerate(pairs) if pair[0] != pair[1])
    return next(differ, min(len(one), len(other)))


def short_ids(connection: Connection, ids: Iterable[str]) -> dict[str, str]:
    """Some ids of a store, and the beginnings with which `full_id` finds them; reads the listings.

    An id that another one begins with stays as it is: it means itself.
    """
    known = ShortIds(packed_ids(all_ids(connection)))
    return {id: known.of(id) for id in ids}


def run_names(runs: RunNames | None) -> tuple[str, ...] | None:
    """The names as a tuple; None = no condition."""
    if runs is None:
        return None
    return (runs,) if isinstance(runs, str) else tuple(runs)


def check_runs(connection: Connection, names: Iterable[str]) -> None:
    """Raise `RunNotFound` for the first run that nothing was recorded in; it names the others."""
    asked = list(names)
    if not asked:
        return
    connection.settle_all()
    known = connection.store.listings.runs()
    for name in asked:
        if name not in known:
            error = RunNotFound(_no_run(connection, name, known))
            error.add_note("wait=True waits for a run that is to come")
            raise error


def _no_run(connection: Connection, name: str, known: Collection[str]) -> str:
    if not known:
        where = f"{connection.store.where}, namespace {connection.keyspace.namespace!r}"
        return f"no run {name!r}: nothing has been recorded yet on {where}"
    nearest = sorted(known, key=lambda one: SequenceMatcher(None, name, one).ratio(), reverse=True)
    verb = "is" if len(known) == 1 else "are"
    return f"no run {_short(repr(name))}; there {verb} {_listed(nearest)}"


def _listed(names: Sequence[str], most: int = MAX_NAMED) -> str:
    more = len(names) - most
    return ", ".join(map(_short, names[:most])) + (f" and {more} more" if more > 0 else "")


def _short(name: str) -> str:
    return shortened(one_line(name), MAX_LETTERS)
