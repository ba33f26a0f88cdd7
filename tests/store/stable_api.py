"""Collects the commands that are sent to MongoDB, and holds them to the Stable API, version 1.

The lists are those of MongoDB's manual, "Stable API" and the pages of the commands. A MongoDB from
5.0 on refuses everything else from a client that says `apiStrict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent

__all__ = ["REPLICA_SET", "Commands", "faults_of"]

REPLICA_SET = "secantus"  # as SecantusDB calls itself, unless it is started with --standalone

COMMANDS = {
    *("aggregate", "create", "createIndexes", "delete", "drop", "dropDatabase", "dropIndexes"),
    *("endSessions", "explain", "find", "findAndModify", "getMore", "hello", "insert"),
    *("killCursors", "listCollections", "listDatabases", "listIndexes", "ping"),
    *("refreshSessions", "update"),
}
WRITES = {"createIndexes", "delete", "findAndModify", "insert", "update"}
READS = {"aggregate", "find"}
NOT_IN_FIND = {
    *("awaitData", "max", "min", "noCursorTimeout", "oplogReplay", "returnKey", "showRecordId"),
    "tailable",
}
NOT_IN_AN_INDEX = {"background", "bucketSize", "sparse", "storageEngine"}
NOT_A_STAGE = {
    *("$collStats", "$currentOp", "$indexStats", "$listLocalSessions", "$listSessions"),
    *("$planCacheStats", "$search"),
}


class Commands(CommandListener):
    """The commands of all clients that are made while it listens.

    Attributes:
        sent: Name and content of each.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def started(self, event: CommandStartedEvent) -> None:
        content = {name: value for name, value in event.command.items() if name != "documents"}
        self.sent.append((event.command_name, content))

    def succeeded(self, event: object) -> None:
        """Nothing to note."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to note."""


def faults_of(name: str, command: Mapping[str, Any]) -> Iterator[str]:
    """What a MongoDB would refuse of a command of ours, and what it would not keep."""
    if (command.get("apiVersion"), command.get("apiStrict")) != ("1", True):
        yield "it does not ask for the strict Stable API"
    if name not in COMMANDS:
        yield "it is not in the Stable API"
    if name in WRITES and command.get("writeConcern") != {"w": "majority", "j": True}:
        yield f"it waits for {command.get('writeConcern')}"
    if name in READS and command.get("readConcern") != {"level": "majority"}:
        yield f"it reads with {command.get('readConcern')}"
    if name in READS and command.get("$readPreference", {"mode": "primary"})["mode"] not in (
        *("primary", "primaryPreferred"),  # the second one: to a single server, by pymongo itself
    ):
        yield f"it reads from {command['$readPreference']}"
    if name == "find":
        yield from (f"{option} is not stable" for option in NOT_IN_FIND & command.keys())
    for index in command.get("indexes", ()):
        yield from (f"{option} is not stable" for option in NOT_IN_AN_INDEX & index.keys())
        yield from (f"{kind!r} is not stable" for kind in index["key"].values() if kind == "text")
    for stage in command.get("pipeline", ()):
        yield from (f"{step} is not stable" for step in NOT_A_STAGE & stage.keys())
