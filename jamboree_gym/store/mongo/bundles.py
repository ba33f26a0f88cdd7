"""Bundles: documents of MongoDB that hold up to a hundred short episodes that have ended.

A server takes nearly as long for a document of 2 kB as for one of 100 kB. So what is copied
together and will not grow any more shares a document. An episode that changes all the same moves
into a separate document (`LogWriter`), which counts more than its place in a bundle.

A bundle is found by its slots: the times, in quarters of a second, at which the ids of its episodes
were made. Only ids that this package made have a slot; all other episodes have their own documents.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import attrgetter
from secrets import token_hex
from typing import Any

from jamboree_gym.errors import DecodeError
from jamboree_gym.store.backups.records import NewLog
from jamboree_gym.store.log import or_error
from jamboree_gym.store.mongo.bundle_documents import (
    MIN_LOGS,
    Member,
    bundle_documents,
    can_be_bundled,
    entries_of,
    found_in_bundle,
    members_of,
    slots_of,
)
from jamboree_gym.store.mongo.documents import FoundLog, check_format, slot_of
from jamboree_gym.store.mongo.link import MongoLink

__all__ = ["Bundles", "Bundling"]

BUNDLES_AT_ONCE = 4
_OF_MEMBERS = {"format": 1, "slots": 1} | {
    f"logs.{name}": 1 for name in ("key", "born", "revision", "count")
}
_STATE = "bundling"  # in the settings


def _only(keys: Collection[str]) -> dict[str, Any] | None:
    """The fields of a bundle, without the other entries if there is only one key."""
    if len(keys) != 1:
        return None
    return {"run": 1, "format": 1, "slots": 1, "logs": {"$elemMatch": {"key": next(iter(keys))}}}


class Bundles:
    """Finds, stores and removes episodes in bundles."""

    def __init__(self, link: MongoLink) -> None:
        self._link = link
        self._where = f"MongoDB at {link.where}"

    # -- writing ----------------------------------------------------------------------------

    def insert(self, documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Store new bundles; return those that are there already."""
        self._link.index_bundles()
        taken = list[dict[str, Any]]()
        for first in range(0, len(documents), BUNDLES_AT_ONCE):
            some = list(documents[first : first + BUNDLES_AT_ONCE])
            taken += self._link.insert_new(self._link.bundles, some)
        return taken

    def remove_repeated(self, keys: Iterable[str]) -> None:
        """Leave each of these episodes only in one bundle: all backups choose the same."""
        first = dict[tuple[str, float], Member]()
        repeated = list[Member]()
        for member in sorted(self.members(keys), key=lambda one: (-one.revision, one.bundle)):
            if first.setdefault((member.key, member.born), member) is not member:
                repeated.append(member)
        self._pull(repeated)

    def remove(
        self, logs: Iterable[tuple[str, float]], *, until_revision: float = math.inf
    ) -> None:
        """Remove logs, given with their births, from all bundles; the space becomes free.

        What another backup has stored of them after a revision stays.
        """
        wanted = set(logs)
        found = self.members(key for key, _ in wanted)
        older = [one for one in found if one.revision <= until_revision]
        self._pull([one for one in older if (one.key, one.born) in wanted])

    def _pull(self, members: Sequence[Member]) -> None:
        from pymongo import DeleteMany, UpdateOne

        keys = defaultdict[str, list[str]](list)
        for member in members:
            keys[member.bundle].append(member.key)
        if not keys:
            return
        pulls = [
            UpdateOne({"_id": bundle}, {"$pull": {"logs": {"key": {"$in": some}}}})
            for bundle, some in keys.items()
        ]
        empty = DeleteMany({"_id": {"$in": list(keys)}, "logs": {"$size": 0}})
        self._link.run(lambda: self._link.bundles.bulk_write([*pulls, empty]))

    # -- reading ----------------------------------------------------------------------------

    def members(self, keys: Iterable[str]) -> list[Member]:
        """Where these logs are; a log is left out if it is in no bundle."""
        wanted = set(keys)
        found = self._with_slots_of(wanted, _only(wanted) or _OF_MEMBERS)
        return [one for document in found for one in members_of(document) if one.key in wanted]

    def find(self, wanted: Iterable[str]) -> list[FoundLog]:
        """These logs, with their batches; the newest last. The missing ones are left out.

        If a bundle that could hold a missing one is damaged, the error takes its place.
        """
        keys, found, errors = set(wanted), list[FoundLog](), dict[str, DecodeError]()
        for document in self._with_slots_of(keys, _only(keys)):
            entries = [one for one in entries_of(document) if one["key"] in keys]
            found += [found_in_bundle(document, one, where=self._where) for one in entries]
            if (error := self._damage(document)) is not None:
                errors |= {key: error for key in keys if slot_of(key) in document.get("slots", ())}
        for key in errors.keys() - {one.key for one in found}:
            found.append(FoundLog(key, -math.inf, None, errors[key]))
        return sorted(found, key=attrgetter("revision"))

    def _damage(self, document: Any) -> DecodeError | None:
        at = f"{self._where}: the bundle {document['_id']}"
        wrong = or_error(partial(check_format, document, at))
        if isinstance(wrong, DecodeError):
            return wrong
        entries, slots = document.get("logs", []), document.get("slots")
        if not isinstance(entries, list) or not isinstance(slots, list):
            return DecodeError(f"{at} is damaged")
        keys = [entry["key"] for entry in entries_of(document)]
        is_whole = len(keys) == len(entries) and {*map(slot_of, keys)}.issubset(slots)
        return None if is_whole else DecodeError(f"{at} is damaged")

    def damaged(self) -> dict[str, DecodeError]:
        """The bundles with entries that cannot be told apart, or cannot be found."""
        fields = {"logs.frames": 0, "logs.head": 0}

        def look() -> dict[str, DecodeError]:
            found = self._link.bundles.find({}, fields)
            damages = ((one["_id"], self._damage({"logs": None, **one})) for one in found)
            return {name: error for name, error in damages if error is not None}

        return self._link.scan(look)

    def all_members(self) -> list[Member]:
        """All logs in bundles."""
        found = self._link.scan(lambda: list(self._link.bundles.find({}, _OF_MEMBERS)))
        return [member for document in found for member in members_of(document)]

    def heads(self, run: str | None) -> Iterator[list[FoundLog]]:
        """All logs or those of a run, without their batches, some hundreds at a time."""
        if run is not None:
            self._link.scan(lambda: self._link.bundles.create_index("run"))
        query = {} if run is None else {"run": run}
        cursor = self._link.bundles.find(query, {"logs.frames": 0, "logs.frames_crc": 0})
        try:
            while found := self._link.scan(lambda: list(islice(cursor, BUNDLES_AT_ONCE))):
                yield [
                    found_in_bundle(document, entry, where=self._where)
                    for document in found
                    for entry in entries_of(document)
                ]
        finally:
            cursor.close()

    def runs(self) -> set[str]:
        """Names of the runs of all bundles."""
        stages: list[dict[str, Any]] = [
            {"$match": {"logs.0": {"$exists": True}}},
            {"$group": {"_id": "$run"}},
        ]
        groups = self._link.scan(lambda: list(self._link.bundles.aggregate(stages)))
        return {group["_id"] for group in groups if isinstance(group["_id"], str)}

    def _with_slots_of(self, keys: Iterable[str], fields: Any) -> Iterator[Any]:
        slots = slots_of(keys)
        if not slots:
            return
        query = {"slots": {"$in": slots} if len(slots) > 1 else slots[0]}
        cursor = self._link.bundles.find(query, fields, batch_size=BUNDLES_AT_ONCE)
        yield from iter(lambda: self._link.run(lambda: next(cursor, None)), None)


class Bundling:
    """Stores short episodes in bundles, in some portions of one copy; `close` it in the end.

    What bundles hold of them already is asked for only once, at the beginning. If another backup
    has stored some of them meanwhile, `close` removes what is there twice.

    The settings of the namespace say which copy has stored bundles last (`newest`, random digits),
    and whether each document of an episode says its slot (`have_slots`): not those of an older
    release.

    Args:
        bundles: Where to store.
        link: Sends the requests.
        keys: The logs that may be stored.

    Attributes:
        bundled: Keys of the logs that are in bundles.
    """

    def __init__(self, bundles: Bundles, link: MongoLink, keys: Iterable[str]) -> None:
        self._bundles = bundles
        self._link = link
        self._inserted: list[str] = []
        state = self._state()
        self._newest, self._have_slots = state.get("newest"), state.get("have_slots") is True
        if self._have_slots:
            link.index_slots()
        self.bundled = {one.key for one in bundles.members(keys)}

    def insert(self, logs: Mapping[str, NewLog]) -> tuple[set[str], set[str]]:
        """Store what can be bundled, and neither is in a bundle nor has a document.

        Returns:
            Keys of the logs that are stored now, and of those that are in such a bundle already.
        """
        short = {key: log for key, log in logs.items() if can_be_bundled(key, log)}
        if len(short) < MIN_LOGS:
            return set(), set()
        documents = list(bundle_documents(self._without_documents(short)))
        taken = self._bundles.insert(documents)
        before = {entry["key"] for one in taken for entry in one["logs"]}
        keys = {entry["key"] for one in documents for entry in one["logs"]}
        self._inserted += keys
        self.bundled |= keys
        return keys - before, before

    def _without_documents(self, logs: Mapping[str, NewLog]) -> dict[str, NewLog]:
        field, values = ("slot", slots_of(logs)) if self._have_slots else ("_id", list(logs))
        wanted = {field: {"$in": values}}
        found = self._link.run(lambda: list(self._link.logs.find(wanted, {"_id": 1})))
        present = {one["_id"] for one in found}
        return {key: log for key, log in logs.items() if key not in present}

    def _state(self) -> Any:
        link = self._link
        state = link.find_one(link.settings, _STATE)
        if state is None:
            state = {"_id": _STATE, "newest": "", "have_slots": link.is_empty(link.logs)}
            if link.insert_new(link.settings, [state]):  # another backup has just begun, too
                state = link.find_one(link.settings, _STATE)
        return state or {}

    def close(self) -> None:
        """Note what was stored; remove what another backup has stored, too."""
        if self._inserted:
            update = {"$set": {"newest": token_hex(8)}}
            find = self._link.settings.find_one_and_update
            before = self._link.run(lambda: find({"_id": _STATE}, update))
            if before is None or before.get("newest") != self._newest:
                self._bundles.remove_repeated(self._inserted)
