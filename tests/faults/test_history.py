"""The checker of histories: it finds each planted fault, and nothing in a right history."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from history import AFTER_ALL, EMPTIED_AFTER_ALL, LOG, RULES, bucket_of, violations
from operations import Operation, OperationLog, read_operations
from processes import PATHS

from jamboree_gym.errors import StoreUnavailable

TOKEN = 7


def op(process: str, action: str, what: str = "", at: float = 0.0, **fields: Any) -> Operation:
    """An operation that takes 0.1 s."""
    return Operation(process, action, what, **{"start": at, "end": at + 0.1, **fields})


def opened(process: str, mode: str) -> Operation:
    return op(process, "open", "single", asked=mode)


def begun(process: str, episode: str, at: float, **fields: Any) -> Operation:
    return op(process, "begin", at=at, **{"asked": [], "result": [[episode, TOKEN]], **fields})


def stepped(
    process: str, episode: str, number: int, at: float, ending: str = "", **fields: Any
) -> Operation:
    return op(process, "step", at=at, asked=[[episode, number, ending]], **fields)


def read(
    process: str, episode: str, steps: int, status: str, at: float, **fields: Any
) -> Operation:
    result = {"rows": [[0, steps]], "tokens": [TOKEN], "steps": steps, "status": status}
    return op(process, "read", episode, at, result={**result, **fields})


def gone(process: str, episode: str, at: float) -> Operation:
    return op(process, "read", episode, at, error="EpisodeNotFound")


def saved(process: str, number: int, at: float, **fields: Any) -> Operation:
    return op(process, "save", "shared", at, asked=number, **fields)


def records(process: str, at: float, *found: tuple[int, str, int]) -> Operation:
    return op(process, "records", "shared", at, result=[list(one) for one in found])


def listed(process: str, at: float, **found: tuple[str, int]) -> Operation:
    return op(process, "list", at=at, result={id: list(one) for id, one in found.items()})


def seen(episode: str, at: float, *indices: int, session: int = 1) -> list[Operation]:
    return [op("f", "saw", episode, at, asked=session, result=index) for index in indices]


# `s` writes with `sync`, `b` with `buffered`; both go on to the end.
RIGHT: list[Operation] = [
    op("nemesis", "setup", "redis", asked="everysec"),
    opened("s", "sync"),
    begun("s", "e", 1.0),
    stepped("s", "e", 1, 2.0),
    stepped("s", "e", 2, 3.0, "terminated"),
    saved("s", 1, 3.2),
    begun("s", "e2", 3.5),
    stepped("s", "e2", 1, 4.0),
    stepped("s", "e2", 2, 8.0),
    saved("s", 2, 8.2),
    op("s", "own", "e2", 8.4, asked=[2, 3.5], result=2),
    stepped("s", "e2", 3, 40.0),
    op("s", "close", at=41.0, asked=["e2"]),
    opened("b", "buffered"),
    begun("b", "d", 1.0),
    stepped("b", "d", 1, 2.0),
    saved("b", 1, 2.2),
    op("b", "flush", at=3.0),
    stepped("b", "d", 2, 4.0),
    saved("b", 2, 4.2),
    stepped("b", "d", 3, 40.0),
    read("r", "e", 1, "running", 2.5),
    read("r", "e", 2, "terminated", 5.0),
    read("r", "e2", 1, "running", 5.0),
    read("r", "d", 1, "running", 5.2),
    listed("r", 5.5, e=("terminated", 2), e2=("running", 1), d=("running", 1)),
    records("r", 9.0, (0, "b", 1), (1, "s", 1), (2, "b", 2), (3, "s", 2)),
    op("f", "follow", "e", 1.5, end=5.0, asked=1, result="over"),
    *seen("e", 4.0, 0, 1),
    op("f", "saw record", "shared", 6.0, asked=1, result=[0, "b", 1]),
    op("f", "saw record", "shared", 6.0, asked=1, result=[1, "s", 1]),
]

LAST: list[Operation] = [
    op("nemesis", "kill", "b", 60.0),
    op(AFTER_ALL, "copy", at=80.0),
    read(AFTER_ALL, "e", 2, "terminated", 81.0),
    read(AFTER_ALL, "e2", 3, "abandoned", 81.0),
    read(AFTER_ALL, "d", 3, "interrupted", 81.0),
    op(AFTER_ALL, "verify", at=82.0, result={}),
    op("nemesis", "empty", "redis", 90.0),
    read(EMPTIED_AFTER_ALL, "e", 2, "terminated", 91.0),
    read(EMPTIED_AFTER_ALL, "e2", 3, "abandoned", 91.0),
    read(EMPTIED_AFTER_ALL, "d", 3, "interrupted", 91.0),
]

FAULTS: dict[str, tuple[str, Sequence[Operation]]] = {
    "a gap": (
        "a_reader_sees_a_prefix",
        [read("x", "e", 2, "terminated", 6.0, rows=[[0, 0], [2, 2]])],
    ),
    "a row twice": (
        "a_reader_sees_a_prefix",
        [read("x", "e", 2, "terminated", 6.0, rows=[[0, 1], [1, 2]])],
    ),
    "a row of another episode": (
        "a_reader_sees_a_prefix",
        [read("x", "e", 2, "terminated", 6.0, tokens=[TOKEN, 8])],
    ),
    "a step that was not taken": ("a_reader_sees_a_prefix", [read("x", "e2", 3, "running", 9.0)]),
    "an index that is missing": (
        "records_come_once_and_in_order",
        [records("x", 9.0, (0, "b", 1), (2, "s", 1), (3, "s", 2))],
    ),
    "a record twice": (
        "records_come_once_and_in_order",
        [records("x", 9.0, (0, "b", 1), (1, "s", 1), (2, "s", 1), (3, "s", 2))],
    ),
    "records in another order": (
        "records_come_once_and_in_order",
        [records("x", 9.0, (0, "b", 1), (1, "s", 2), (2, "s", 1))],
    ),
    "a record that nobody saved": (
        "records_come_once_and_in_order",
        [records("x", 5.0, (0, "b", 1), (1, "s", 1), (2, "s", 2))],
    ),
    "a step that a follower has seen": ("a_follower_sees_each_once", seen("e", 5.0, 1)),
    "a step that a follower has missed": ("a_follower_sees_each_once", seen("e2", 9.0, 0, 2)),
    "a follower that left too early": (
        "a_follower_sees_each_once",
        [op("f", "follow", "e", 5.0, asked=9, result="over"), *seen("e", 5.0, 0, session=9)],
    ),
    "a record that a follower has missed": (
        "a_follower_sees_each_once",
        [op("f", "saw record", "shared", 9.0, asked=1, result=[3, "s", 2])],
    ),
    "an acknowledged step is gone": (
        "what_was_acknowledged_is_there",
        [read("x", "e2", 1, "running", 9.0)],
    ),
    "an acknowledged end is gone": (
        "what_was_acknowledged_is_there",
        [read("x", "e", 2, "running", 9.0)],
    ),
    "an acknowledged episode is gone": ("what_was_acknowledged_is_there", [gone("x", "e", 9.0)]),
    "a flushed episode is gone": ("what_was_acknowledged_is_there", [gone("x", "d", 9.0)]),
    "it is not listed": (
        "what_was_acknowledged_is_there",
        [listed("x", 9.0, e=("terminated", 2), e2=("running", 2))],
    ),
    "a flushed step of a living writer is not listed": (
        "what_was_acknowledged_is_there",
        [listed("x", 9.0, e=("terminated", 2), e2=("running", 2), d=("running", 0))],
    ),
    "an acknowledged record is gone": (
        "what_was_acknowledged_is_there",
        [records("x", 9.0, (0, "b", 1), (1, "s", 1))],
    ),
    "a step of the journal is gone": (
        "what_was_acknowledged_is_there",
        [read(AFTER_ALL, "d", 2, "interrupted", 81.5)],
    ),
    "a record of the journal is gone": (
        "what_was_acknowledged_is_there",
        [records(AFTER_ALL, 81.5, (0, "b", 1), (1, "s", 1), (2, "s", 2))],
    ),
    "its own step is not seen": (
        "a_process_reads_its_own_writes",
        [op("s", "own", "e2", 8.5, asked=[2, 3.5], result=1)],
    ),
    "a step that was seen is gone": (
        "reads_never_go_back",
        [read("r", "d", 3, "running", 41.0), read("r", "d", 2, "running", 42.0)],
    ),
    "an end that was seen is gone": ("reads_never_go_back", [read("r", "e", 2, "running", 6.0)]),
    "a deleted episode is back": (
        "what_is_deleted_stays_deleted",
        [op("x", "delete", "e", 9.0), read("r", "e", 2, "terminated", 9.5)],
    ),
    "a deleted episode is listed": (
        "what_is_deleted_stays_deleted",
        [op("x", "delete", "e", 9.0), listed("r", 9.5, e=("terminated", 2))],
    ),
    "a deleted episode is back after Redis was emptied": (
        "what_is_deleted_stays_deleted",
        [
            op("x", "delete", "e", 9.0),
            op("nemesis", "empty", "redis", 20.0),
            read("r", "e", 2, "terminated", 30.0),
        ],
    ),
    "a living writer counts as dead": (
        "the_status_is_true",
        [read("x", "e2", 2, "interrupted", 30.0)],
    ),
    "a dead writer counts as living": ("the_status_is_true", [read("x", "d", 3, "running", 74.0)]),
    "an end that nobody asked for": ("the_status_is_true", [read("x", "e2", 2, "truncated", 9.0)]),
    "an episode that nobody gave up": (
        "the_status_is_true",
        [read("x", "e2", 2, "abandoned", 9.0)],
    ),
    "an episode that nobody began": ("the_status_is_true", [read("x", "no", 1, "running", 9.0)]),
    "a follower takes a living writer for dead": (
        "the_status_is_true",
        [op("f", "follow", "e2", 20.0, asked=9, result="over"), *seen("e2", 20.0, 0, 1, session=9)],
    ),
    "something is damaged": (
        "only_faults_that_can_be_are_told",
        [op("x", "read", "e", 9.0, error="DecodeError")],
    ),
    "a process crashes": (
        "only_faults_that_can_be_are_told",
        [op("nemesis", "crash", "r", 9.0, result="ValueError")],
    ),
    "nothing was lost": (
        "a_loss_is_said_once",
        [stepped("s", "e2", 3, 8.6, error="EpisodeNotFound", words="e2 is lost")],
    ),
    "a loss is said again": (
        "a_loss_is_said_once",
        [
            op("nemesis", "empty", "redis", 8.5),
            stepped("s", "e2", 3, 8.6, error="EpisodeNotFound", words="e2 is lost"),
            stepped("s", "e2", 4, 8.7, error="EpisodeNotFound", words="e2 is lost"),
        ],
    ),
    "the backup lacks something": (
        "the_backup_is_equal",
        [op(AFTER_ALL, "verify", at=83.0, result={"e": "is missing"})],
    ),
    "MongoDB gives back something else": (
        "the_backup_is_equal",
        [read(EMPTIED_AFTER_ALL, "d", 2, "interrupted", 92.0)],
    ),
    "a listing lacks a step": (
        "a_listing_shows_what_its_log_has",
        [listed(AFTER_ALL, 80.5, e=("terminated", 2), e2=("abandoned", 3), d=("interrupted", 2))],
    ),
    "a listing lacks an end": (
        "a_listing_shows_what_its_log_has",
        [listed(AFTER_ALL, 80.5, e=("running", 2), e2=("abandoned", 3), d=("interrupted", 3))],
    ),
}

EMPTIED = op("nemesis", "empty", "redis", 20.0)
KILLED = op("nemesis", "kill", "redis", 9.0)
STOPPED = op("nemesis", "stop", "s", 20.0, end=32.0)
MONGO_STOPPED = op("nemesis", "stop", "mongo", 8.0, end=12.0)


def primary(action: str, of: str, start: float, end: float) -> Operation:
    """The primary of a cluster that has an episode, or the shared log, has a bad time."""
    return op("nemesis", action, "primary", start, end=end, asked=[bucket_of(of)])


EXCUSED: dict[str, Sequence[Operation]] = {
    "Redis was emptied": [EMPTIED, gone("x", "e", 30.0), records("x", 30.0)],
    "Redis was emptied, and the steps after that are gone, too": [
        EMPTIED,
        gone(AFTER_ALL, "d", 81.5),
        gone(EMPTIED_AFTER_ALL, "d", 91.0),
    ],
    "Redis was killed right after the answer": [KILLED, read("x", "e2", 1, "running", 9.5)],
    "Redis was killed right after the answer, and lists less": [
        KILLED,
        listed("x", 9.5, e=("terminated", 2), e2=("running", 1), d=("running", 1)),
    ],
    "the writer was stopped": [STOPPED, read("x", "e2", 2, "interrupted", 31.5)],
    "a flush has said that it is lost": [
        op("nemesis", "empty", "redis", 9.0),
        op("b", "flush", at=10.0, error="UnsavedRecords", cause="EpisodeNotFound"),
        stepped("b", "d", 4, 41.0),
        op("b", "flush", at=42.0),
        gone("x", "d", 43.0),
        gone(AFTER_ALL, "d", 81.0),
        gone(EMPTIED_AFTER_ALL, "d", 91.0),
    ],
    "it was deleted": [
        op("x", "delete", "e", 9.0),
        gone("r", "e", 9.5),
        gone(AFTER_ALL, "e", 81.0),
        gone(EMPTIED_AFTER_ALL, "e", 91.0),
    ],
    "it may have been deleted": [
        op("x", "delete", "e", 9.0, error="StoreUnavailable"),
        gone("r", "e", 9.5),
    ],
    "it was deleted while MongoDB was away, and Redis was emptied": [
        MONGO_STOPPED,
        op("x", "delete", "e", 9.0),
        EMPTIED,
        read("r", "e", 2, "terminated", 30.0),
    ],
    "a step was not confirmed": [
        stepped("s", "e2", 3, 8.6, error="StoreUnavailable"),
        read("x", "e2", 2, "running", 9.0),
    ],
    "a step was not confirmed, and is there": [
        stepped("s", "e2", 3, 8.6, error="StoreUnavailable"),
        read("x", "e2", 3, "running", 9.0),
    ],
    "nobody was told of a step": [read("x", "d", 1, "running", 9.0)],
    "a listing at the end": [
        listed(AFTER_ALL, 80.5, e=("terminated", 2), e2=("abandoned", 3), d=("interrupted", 3)),
    ],
    "a follower was killed while it noted a step": [
        op("f", "saw", "e2", 9.0, end=math.inf, asked=1),
        op("f", "saw record", "shared", 9.0, end=math.inf, asked=1),
    ],
    "the lease is not over": [read("x", "d", 3, "running", 69.0)],
    "its primary was killed right after the answer": [
        primary("kill", "e2", 9.0, 13.0),
        read("x", "e2", 1, "running", 13.5),
        listed("x", 14.0, e=("terminated", 2), e2=("running", 1), d=("running", 1)),
    ],
    "its primary was killed right after the answer, and the writer was told": [
        primary("kill", "e2", 9.0, 13.0),
        stepped("s", "e2", 3, 13.5, error="EpisodeNotFound", words="e2 is lost"),
    ],
    "the writer of a journal was told": [
        primary("kill", "d", 35.0, 39.0),
        op("b", "flush", at=40.5, error="UnsavedRecords", cause="EpisodeNotFound"),
        read(AFTER_ALL, "d", 2, "interrupted", 81.5),
        read(EMPTIED_AFTER_ALL, "d", 2, "interrupted", 91.5),
    ],
    "the primary of a log was killed right after the answer": [
        primary("kill", LOG, 9.0, 13.0),
        records("x", 13.5, (0, "b", 1), (1, "s", 1), (2, "b", 2)),
    ],
    "its primary was killed right after the deletion": [
        op("x", "delete", "e", 8.0),
        primary("kill", "e", 9.0, 13.0),
        read("r", "e", 2, "terminated", 30.0),
        op(AFTER_ALL, "verify", at=82.0, result={"history:episode:{e}": "is missing"}),
        read(AFTER_ALL, "e", 2, "terminated", 81.0),
        gone(EMPTIED_AFTER_ALL, "e", 91.0),
    ],
    "its primary was stopped, and answered when it was woken": [
        primary("stop", "e2", 2.0, 8.0),
        read("x", "e2", 1, "running", 15.0),
    ],
    "its primary was stopped, and a read was answered by it when it was woken": [
        primary("stop", "e2", 4.5, 12.0),
        read("x", "e2", 1, "running", 12.5),
        listed("x", 12.6, e=("terminated", 2), d=("running", 1)),
    ],
    "the primary of a log was stopped, and a read was answered by it when it was woken": [
        primary("stop", LOG, 4.5, 12.0),
        records("x", 12.5, (0, "b", 1), (1, "s", 1)),
    ],
    "a primary was away for so long that a lease may be over": [
        primary("kill", "e", 20.0, 25.0),
        read("x", "e2", 2, "interrupted", 30.0),
    ],
}

FOUND_ALL_THE_SAME: dict[str, tuple[str, Sequence[Operation]]] = {
    "Redis was emptied after a copy": (
        "what_was_acknowledged_is_there",
        [op("k", "copy", at=10.0), EMPTIED, gone("x", "e", 30.0)],
    ),
    "Redis was killed long after the answer": (
        "what_was_acknowledged_is_there",
        [KILLED, read("x", "e", 1, "running", 9.5)],
    ),
    "a listing lacks what was acknowledged long before Redis was killed": (
        "what_was_acknowledged_is_there",
        [KILLED, listed("x", 9.5, e=("terminated", 2), e2=("running", 1), d=("running", 0))],
    ),
    "Redis lost steps when it was killed, and lacks them after a later answer": (
        "what_was_acknowledged_is_there",
        [KILLED, stepped("s", "e2", 3, 10.0), read("x", "e2", 2, "running", 11.0)],
    ),
    "Redis was killed, and writes to its disk at once": (
        "what_was_acknowledged_is_there",
        [
            op("nemesis", "setup", "redis", asked="always"),
            KILLED,
            read("x", "e2", 1, "running", 9.5),
        ],
    ),
    "another primary was killed": (
        "what_was_acknowledged_is_there",
        [primary("kill", "e", 9.0, 13.0), read("x", "e2", 1, "running", 13.5)],
    ),
    "the primary of a log was killed, and an episode lacks a step": (
        "what_was_acknowledged_is_there",
        [primary("kill", LOG, 9.0, 13.0), read("x", "e2", 1, "running", 13.5)],
    ),
    "the primary of another log was killed": (
        "what_was_acknowledged_is_there",
        [primary("kill", "e", 9.0, 13.0), records("x", 13.5, (0, "b", 1), (1, "s", 1))],
    ),
    "its primary was killed long after the answer": (
        "what_was_acknowledged_is_there",
        [primary("kill", "e2", 11.0, 15.0), read("x", "e2", 1, "running", 15.5)],
    ),
    "its primary was killed, and its successor lacks what it has answered to": (
        "what_was_acknowledged_is_there",
        [
            primary("kill", "e2", 9.0, 13.0),
            stepped("s", "e2", 3, 13.5),
            read("x", "e2", 2, "running", 14.0),
        ],
    ),
    "its primary was stopped, and its successor lacks what it has answered to": (
        "what_was_acknowledged_is_there",
        [primary("stop", "e2", 4.5, 12.0), read("x", "e2", 1, "running", 15.5)],
    ),
    "another primary was woken": (
        "what_was_acknowledged_is_there",
        [primary("stop", "e", 4.5, 12.0), read("x", "e2", 1, "running", 12.5)],
    ),
    "another primary was woken, and it is not listed": (
        "what_was_acknowledged_is_there",
        [
            primary("stop", "e", 4.5, 12.0),
            listed("x", 12.5, e=("terminated", 2), d=("running", 1)),
        ],
    ),
    "slots of its primary moved": (
        "what_was_acknowledged_is_there",
        [primary("migrate", "e2", 9.0, 10.0), read("x", "e2", 1, "running", 10.5)],
    ),
    "what was seen long before its primary was killed is gone": (
        "reads_never_go_back",
        [primary("kill", "e2", 9.0, 13.0), read("r", "e2", 0, "running", 13.5)],
    ),
    "what was seen after its primary was replaced is gone": (
        "reads_never_go_back",
        [
            primary("kill", "e2", 5.0, 8.5),
            read("r", "e2", 2, "running", 9.0),
            read("r", "e2", 1, "running", 9.5),
        ],
    ),
    "an episode goes on after its primary was killed, and lacks steps that nobody was told of": (
        "what_was_acknowledged_is_there",
        [primary("kill", "d", 35.0, 39.0), read(AFTER_ALL, "d", 2, "interrupted", 81.5)],
    ),
    "its own step is not seen, and another primary was killed": (
        "a_process_reads_its_own_writes",
        [
            primary("kill", "e", 8.3, 12.0),
            op("s", "own", "e2", 12.5, asked=[2, 3.5], result=1),
        ],
    ),
    "a record that a follower has missed, and another primary was killed": (
        "a_follower_sees_each_once",
        [
            primary("kill", "e", 7.0, 8.5),
            op("f", "saw record", LOG, 9.0, asked=1, result=[3, "s", 2]),
        ],
    ),
    "a loss is told, and another primary was killed": (
        "a_loss_is_said_once",
        [
            primary("kill", "e", 8.3, 12.0),
            stepped("s", "e2", 3, 12.5, error="EpisodeNotFound", words="e2 is lost"),
        ],
    ),
    "a step of the journal is gone, and another primary was killed": (
        "what_was_acknowledged_is_there",
        [primary("kill", "e", 39.0, 43.0), read(AFTER_ALL, "d", 2, "interrupted", 81.5)],
    ),
    "a deleted episode is back, and another primary was killed": (
        "what_is_deleted_stays_deleted",
        [
            op("x", "delete", "e", 8.0),
            primary("kill", "e2", 9.0, 13.0),
            read("r", "e", 2, "terminated", 13.5),
        ],
    ),
    "a deleted episode is back, and its primary was killed long after that": (
        "what_is_deleted_stays_deleted",
        [
            op("x", "delete", "e", 8.0),
            primary("kill", "e", 11.0, 15.0),
            read("r", "e", 2, "terminated", 15.5),
        ],
    ),
    "the backup lacks what nobody has deleted, and its primary was killed": (
        "the_backup_is_equal",
        [
            primary("kill", "e", 9.0, 13.0),
            op(AFTER_ALL, "verify", at=83.0, result={"history:episode:{e}": "is missing"}),
        ],
    ),
    "a living writer counts as dead long after a primary was killed": (
        "the_status_is_true",
        [primary("kill", "d", 9.0, 14.0), read("x", "e2", 2, "interrupted", 30.0)],
    ),
    "the deletion came to MongoDB with a copy": (
        "what_is_deleted_stays_deleted",
        [
            MONGO_STOPPED,
            op("x", "delete", "e", 9.0),
            op("k", "copy", at=13.0),
            EMPTIED,
            read("r", "e", 2, "terminated", 30.0),
        ],
    ),
}


def history_of(*more: Operation) -> list[Operation]:
    """The right one, with more, in the order of the calls; what is said again replaces it."""
    said = {(one.process, one.action, one.what) for one in more}
    is_once = ("setup", "verify")
    kept = [
        one
        for one in (*RIGHT, *LAST)
        if not (one.action in is_once or one.process in (AFTER_ALL, EMPTIED_AFTER_ALL))
        or (one.process, one.action, one.what) not in said
    ]
    return sorted([*kept, *more], key=lambda one: one.start)


def test_a_right_history_has_no_violation() -> None:
    assert violations(history_of()) == []


@pytest.mark.parametrize("name", [*FAULTS])
def test_a_planted_fault_is_found(name: str) -> None:
    rule, planted = FAULTS[name]

    found = violations(history_of(*planted))

    assert rule in {one.rule for one in found}, found


def test_each_rule_has_a_planted_fault() -> None:
    assert {rule for rule, _ in FAULTS.values()} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize("name", [*EXCUSED])
def test_what_may_be_lost_or_late_is_no_violation(name: str) -> None:
    assert violations(history_of(*EXCUSED[name])) == []


@pytest.mark.parametrize("name", [*FOUND_ALL_THE_SAME])
def test_what_no_fault_excuses_is_found(name: str) -> None:
    rule, planted = FOUND_ALL_THE_SAME[name]

    assert rule in {one.rule for one in violations(history_of(*planted))}


def test_what_fsync_has_confirmed_outlives_a_killed_redis() -> None:
    planted = [KILLED, read("x", "e2", 1, "running", 9.5)]
    synced = [replace(one, asked="fsync") if one.asked == "sync" else one for one in RIGHT]

    assert not violations([*RIGHT, *planted])
    (found,) = violations([*synced, *planted])
    assert found.rule == "what_was_acknowledged_is_there"


def test_what_fsync_has_confirmed_may_be_lost_with_its_primary() -> None:
    planted = [primary("kill", "e2", 9.0, 13.0), read("x", "e2", 1, "running", 13.5)]
    synced = [replace(one, asked="fsync") if one.asked == "sync" else one for one in RIGHT]

    assert not violations([*synced, *planted])


# -- the notes ------------------------------------------------------------------------------------


def test_notes_outlive_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "p.log"
    source = f"""
import os, signal, sys
sys.path[:0] = {[*PATHS, str(Path(__file__).parent)]}
from pathlib import Path
from operations import OperationLog
log = OperationLog(Path({str(path)!r}), OSError)
log.note("saw", "e", 3, asked=1)
with log.call("save", "shared", 1):
    os.kill(os.getpid(), signal.SIGKILL)
"""

    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == -9

    first, second = read_operations(path)
    assert (first.process, first.action, first.what, first.asked, first.result) == (
        *("p", "saw", "e", 1, 3),
    )
    assert first.is_ok
    assert (second.action, second.asked, second.end) == ("save", 1, math.inf)
    assert 0 < first.start <= first.end <= second.start


def test_an_expected_error_is_noted_and_another_one_goes_on(tmp_path: Path) -> None:
    log = OperationLog(tmp_path / "p.log", StoreUnavailable)

    with log.call("read", "e") as call:
        call.result = 1
        raise StoreUnavailable("it is away")
    with pytest.raises(ValueError, match="no"), log.call("read", "e"):
        raise ValueError("no")

    first, second = read_operations(tmp_path / "p.log")
    assert (first.result, first.error, first.words) == (1, "StoreUnavailable", "it is away")
    assert second.end == math.inf
    assert json.loads((tmp_path / "p.log").read_text().splitlines()[0])[0] == "call"
