"""A simulated MongoDB: collections of documents in memory, behind the calls of pymongo.

It has the queries and updates that this project uses, and refuses all others. Like the embedded
server it makes each write of one document in one step. What becomes of a request is decided by
whoever is asked before and after it, as with Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from pymongo import DeleteMany, DeleteOne, UpdateOne
from pymongo.errors import AutoReconnect, BulkWriteError

__all__ = ["MongoModel", "Request", "client_of"]

Request = Callable[[str, Callable[[], Any]], Any]
"""Carries a request: what it is, and what executes it."""
_DUPLICATE = 11000
_MISSING = object()
_PLAIN = frozenset((bool, bytes, float, int, str, type(None)))


class MongoModel:
    """One server.

    Attributes:
        databases: The documents by id, of each collection of each database.
        is_away: Whether it does not answer.
    """

    def __init__(self) -> None:
        self.databases: dict[str, dict[str, dict[Any, dict[str, Any]]]] = {}
        self.is_away = False

    def names(self) -> list[str]:
        """Those of the databases that hold something: MongoDB knows of no others."""
        return [name for name, found in self.databases.items() if any(found.values())]

    def documents(self, database: str, collection: str) -> dict[Any, dict[str, Any]]:
        """The documents of a collection."""
        return self.databases.setdefault(database, {}).setdefault(collection, {})


def client_of(model: MongoModel, carry: Request | None = None) -> Any:
    """What the project uses of a pymongo client."""
    return _Client(model, carry or (lambda _, execute: execute()))


class _Client:
    def __init__(self, model: MongoModel, carry: Request) -> None:
        self._model, self._carry = model, carry
        self.options = SimpleNamespace(pool_options=SimpleNamespace(_ssl_context=None))
        self.admin = SimpleNamespace(command=lambda name: self.request(name, dict))

    def request(self, what: str, execute: Callable[[], Any]) -> Any:
        if self._model.is_away:
            raise AutoReconnect("connection refused")
        return self._carry(what, execute)

    def get_database(self, name: str, **_: Any) -> _Database:
        return _Database(self, self._model, name)

    def list_database_names(self) -> list[str]:
        return list(self.request("the names of databases", self._model.names))

    def close(self) -> None:
        pass


class _Database:
    def __init__(self, client: _Client, model: MongoModel, name: str) -> None:
        self._client, self._model, self.name = client, model, name

    def __getitem__(self, name: str) -> _Collection:
        return _Collection(self._client, self._model, self.name, name)


class _Collection:
    def __init__(self, client: _Client, model: MongoModel, database: str, name: str) -> None:
        self._client, self._model, self._database, self.name = client, model, database, name

    @property
    def _documents(self) -> dict[Any, dict[str, Any]]:
        return self._model.documents(self._database, self.name)

    def _request(self, what: str, execute: Callable[[], Any]) -> Any:
        return self._client.request(f"{what} of {self.name}", execute)

    def create_index(self, order: Any) -> None:
        self._request("an index", lambda: None)

    # -- reading ----------------------------------------------------------------------------

    def find_one(self, query: Mapping[str, Any], fields: Any = None) -> Any:
        found = self._request("a read", lambda: self._found(query, fields)[:1])
        return found[0] if found else None

    def find(self, query: Any, fields: Any = None, batch_size: int = 0) -> _Cursor:
        return _Cursor(lambda: self._request("a read", lambda: self._found(query, fields)))

    def _found(self, query: Mapping[str, Any], fields: Any = None) -> list[Any]:
        return [_copied(projected(one, fields)) for one in self._matching(query)]

    def _matching(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The documents that a query asks for; by their ids, where it names these."""
        wanted, documents = query.get("_id", _MISSING), self._documents
        if isinstance(wanted, dict) and wanted.keys() == {"$in"}:
            ids = set(wanted["$in"])
            some = [one for id, one in documents.items() if id in ids]
        elif isinstance(wanted, str):
            some = [documents[wanted]] if wanted in documents else []
        else:
            return [one for one in documents.values() if matches(one, query)]
        return some if len(query) == 1 else [one for one in some if matches(one, query)]

    def aggregate(self, stages: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        def run() -> list[Any]:
            found = self._found({})
            for stage in stages:
                ((name, how),) = stage.items()
                if name == "$match":
                    found = [one for one in found if matches(one, how)]
                elif name == "$group" and list(how) == ["_id"]:
                    values = dict.fromkeys(one.get(how["_id"][1:]) for one in found)
                    found = [{"_id": value} for value in values]
                else:
                    raise NotImplementedError(stage)
            return found

        return iter(self._request("an aggregation", run))

    # -- writing ----------------------------------------------------------------------------

    def insert_many(self, documents: Sequence[Mapping[str, Any]], *, ordered: bool) -> None:
        assert not ordered
        given = [_copied(dict(one)) for one in documents]

        def run() -> None:
            errors = []
            for at, one in enumerate(given):
                if one["_id"] in self._documents:
                    errors.append(_duplicate(at, one["_id"]))
                else:
                    self._documents[one["_id"]] = one
            _raise_all(errors)

        self._request("an insert", run)

    def update_one(self, query: Any, update: Any, upsert: bool = False) -> Any:
        def run() -> Any:
            return SimpleNamespace(matched_count=self._update(query, update, upsert=upsert))

        return self._request("an update", run)

    def find_one_and_update(self, query: Any, update: Any) -> Any:
        def run() -> Any:
            found = self._found(query)[:1]
            self._update(query, update)
            return found[0] if found else None

        return self._request("an update", run)

    def delete_many(self, query: Any) -> None:
        self._request("a deletion", lambda: self._delete(query, many=True))

    def bulk_write(self, writes: Sequence[Any], *, ordered: bool = True) -> None:
        def run() -> None:
            errors = []
            for at, one in enumerate(writes):
                if isinstance(one, UpdateOne):
                    try:
                        self._update(one._filter, one._doc, upsert=bool(one._upsert))
                    except KeyError as error:
                        errors.append(_duplicate(at, error.args[0]))
                elif isinstance(one, (DeleteOne, DeleteMany)):
                    self._delete(one._filter, many=isinstance(one, DeleteMany))
                else:
                    raise NotImplementedError(one)
                if errors and ordered:
                    break
            _raise_all(errors)

        self._request("writes", run)

    def _update(self, query: Any, update: Any, *, upsert: bool = False) -> int:
        """How many documents matched; KeyError where an upsert meets an id that is there."""
        changed = next(iter(self._matching(query)), None)
        matched = int(changed is not None)
        if changed is None:
            if not upsert:
                return 0
            if query["_id"] in self._documents:
                raise KeyError(query["_id"])
            equal = {name: one for name, one in query.items() if not isinstance(one, dict)}
            changed = self._documents[query["_id"]] = _copied(equal)
        for name, fields in update.items():
            if name == "$set":
                changed.update(_copied(dict(fields)))
            elif name == "$inc":
                changed.update({field: changed.get(field, 0) + by for field, by in fields.items()})
            elif name == "$pull":
                for field, pulled in fields.items():
                    changed[field] = [one for one in changed[field] if not matches(one, pulled)]
            else:
                raise NotImplementedError(name)
        return matched

    def _delete(self, query: Any, *, many: bool) -> None:
        found = [one["_id"] for one in self._matching(query)]
        for id in found if many else found[:1]:
            del self._documents[id]


class _Cursor:
    def __init__(self, ask: Callable[[], list[Any]]) -> None:
        self._ask = ask
        self._found: Iterator[Any] | None = None
        self._order: list[tuple[str, int]] = []
        self._limit: int | None = None

    def sort(self, order: Any, direction: int = 1) -> _Cursor:
        self._order = [(order, direction)] if isinstance(order, str) else list(order)
        return self

    def limit(self, limit: int) -> _Cursor:
        self._limit = limit
        return self

    def __iter__(self) -> _Cursor:
        return self

    def __next__(self) -> Any:
        if self._found is None:
            found = self._ask()
            for name, direction in reversed(self._order):
                found.sort(key=lambda one, name=name: one[name], reverse=direction < 0)
            self._found = iter(found[: self._limit])
        return next(self._found)

    def close(self) -> None:
        pass


def _copied(value: Any) -> Any:
    """A document, or a part of one, apart."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        return {name: one if type(one) in _PLAIN else _copied(one) for name, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def matches(document: Any, query: Mapping[str, Any]) -> bool:
    """Whether a document is one of those that a query asks for."""
    return all(_field_matches(_values(document, name), how) for name, how in query.items())


def _values(document: Any, path: str) -> list[Any]:
    """What a query compares with: the value, and if it is an array its elements, too."""
    found = document
    for part in path.split("."):
        if isinstance(found, list):
            found = found[int(part)] if int(part) < len(found) else _MISSING
        else:
            found = found.get(part, _MISSING) if isinstance(found, dict) else _MISSING
    return [found, *found] if isinstance(found, list) else [found]


def _field_matches(values: list[Any], how: Any) -> bool:
    if not isinstance(how, dict) or not any(name.startswith("$") for name in how):
        return how in values
    return all(_passes(values, name, wanted) for name, wanted in how.items())


def _passes(values: list[Any], name: str, wanted: Any) -> bool:
    there = [one for one in values if one is not _MISSING]
    alike = [one for one in there if type(one) is type(wanted) or _are_numbers(one, wanted)]
    match name:
        case "$in":
            return any(one in wanted for one in there)
        case "$exists":
            return bool(there) == wanted
        case "$size":
            return isinstance(values[0], list) and len(values[0]) == wanted
        case "$lt":
            return any(one < wanted for one in alike)
        case "$lte":
            return any(one <= wanted for one in alike)
        case "$gte":
            return any(one >= wanted for one in alike)
        case "$gt":
            return any(one > wanted for one in alike)
    raise NotImplementedError(name)


def _are_numbers(one: Any, other: Any) -> bool:
    return isinstance(one, (int, float)) and isinstance(other, (int, float))


def projected(document: dict[str, Any], fields: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a document that were asked for."""
    if not fields:
        return document
    if all(value == 0 for value in fields.values()):
        gone = [name.split(".") for name in fields]
        return {
            name: _without(value, [path[1:] for path in gone if path[0] == name and path[1:]])
            for name, value in document.items()
            if [name] not in gone
        }
    found = {"_id": document["_id"]}
    for name, how in fields.items():
        first, _, inner = name.partition(".")
        if first not in document:
            continue
        value = document[first]
        if isinstance(how, dict):
            value = next(([one] for one in value if matches(one, how["$elemMatch"])), None)
            if value is None:
                continue
        elif inner and isinstance(value, list):
            before = found.get(first) or [{} for _ in value]
            value = [
                {**old, **({inner: one[inner]} if inner in one else {})}
                for old, one in zip(before, value, strict=True)
            ]
        found[first] = value
    return found


def _without(value: Any, paths: list[list[str]]) -> Any:
    if not paths or not isinstance(value, list):
        return value
    gone = {path[0] for path in paths}
    return [{name: one for name, one in entry.items() if name not in gone} for entry in value]


def _duplicate(at: int, id: Any) -> dict[str, Any]:
    return {"index": at, "code": _DUPLICATE, "errmsg": f"E11000 duplicate key: {id}"}


def _raise_all(errors: list[dict[str, Any]]) -> None:
    if errors:
        raise BulkWriteError({"writeErrors": errors, "writeConcernErrors": []})
