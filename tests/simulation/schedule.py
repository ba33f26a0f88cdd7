"""What happens in a simulation, as data: the steps of the actors and the faults in them.

A seed makes a schedule. From there on nothing is drawn: the same schedule happens the same way
again, also when steps or faults were taken out of it. That is what `shrunk` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

__all__ = [
    "ACTS",
    "CLUSTER_WINDOWS",
    "Fault",
    "Schedule",
    "Step",
    "is_on_cluster",
    "made",
    "shrunk",
]

MOST_STEPS = (10, 16, 24, 48)  # a short schedule finds less than a long one, but more in a second
FAULTS = 0.3  # of the steps have one
WRITERS = ("writer-1", "writer-2", "writer-3", "writer-4")
NUMBERS_OF_WRITERS = (1, 1, 1, 2, 2, 3, 4)
OF_WRITERS = {
    "save": 8,
    "save_many": 2,
    "step": 8,
    "reset": 2,
    "vector_step": 4,
    "deliver": 6,
    "flush": 2,
    "read_own": 2,
    "renew": 1,
    "close": 1,
}
OF_READER = {"read_notes": 4, "read_episodes": 3, "follow_notes": 3, "follow_episodes": 2}
OF_KEEPER = {
    "copy": 8,
    "follow_up": 3,
    "take_turn": 2,
    "trim": 3,
    "restore": 1,
    "delete_notes": 1,
    "delete_episode": 1,
    "verify": 1,
}
OF_SECOND_KEEPER = {"take_turn": 4, "copy": 1, "trim": 1}
# What is added to some schedules, see `_with_more`.
MORE_OF_KEEPER = {"watch": 5, "retire": 2, "copy_elsewhere": 3, "ask_status": 3, "preview": 1}
MORE_OF_SECOND_KEEPER = {"watch": 4, "retire": 2}
MORE_OF_WRITER = {"pop": 1}
MORE_ACTS: dict[str, dict[str, int]] = {
    **dict.fromkeys(WRITERS, MORE_OF_WRITER),
    "keeper": MORE_OF_KEEPER,
    "keeper-2": MORE_OF_SECOND_KEEPER,
}
OF_WORLD = {
    "wait": 6,
    "kill": 4,
    "empty_redis": 2,
    "fail_over": 2,
    "start_redis_again": 2,
    "redis_away": 1,
    "redis_back": 2,
    "mongo_away": 1,
    "mongo_back": 2,
    "fill_redis": 1,
    "free_redis": 2,
    "fill_disk": 1,
    "free_disk": 2,
    "move_clock": 2,
    "cut_power": 1,
}
ACTS: dict[str, dict[str, int]] = {
    **dict.fromkeys(WRITERS, OF_WRITERS),
    "reader": OF_READER,
    "keeper": OF_KEEPER,
    "keeper-2": OF_SECOND_KEEPER,
    "world": OF_WORLD,
}
SHARES = {**dict.fromkeys(WRITERS, 3), "reader": 2, "keeper": 5, "keeper-2": 1, "world": 3}
# What becomes of a round trip. `meanwhile` has another actor take a step before it.
FAULTS_OF_CALLS = {
    "command lost": 2,
    "answer lost": 4,
    "answer lost in time": 1,
    "answer late": 2,
    "killed before": 2,
    "killed after": 3,
    "meanwhile": 12,
    "stopped": 6,
}
# Round trips that decide something are hit more often than others.
OF_RECORDING = {"": 5, "append": 6, "standing": 1, "restore": 1}
OF_READING = {"": 5, "standing": 2, "restore": 2, "logs": 2}
OF_KEEPING = {
    "": 5,
    "acknowledge": 4,
    "insert": 3,
    "writes": 2,
    "restore": 2,
    "delete": 2,
    "trim": 2,
    "standing": 1,
}
OF: dict[str, dict[str, int]] = {
    **dict.fromkeys(WRITERS, OF_RECORDING),
    "reader": OF_READING,
    "keeper": OF_KEEPING,
    "keeper-2": OF_KEEPING,
}
# What writers do while others wait: what arrives at once.
OF_WRITERS_MEANWHILE = {"flush": 6, "save": 3, "step": 3, "reset": 1, "vector_step": 1, "close": 1}


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of one round trip of a step.

    Attributes:
        at: Which round trip, counted from 0; of those that `of` names.
        kind: One of `FAULTS_OF_CALLS`.
        delay: After how many further round trips of anybody a late command is executed; after how
            many steps of the schedule a stopped process goes on.
        step: What another actor does meanwhile.
        of: Only round trips with this in their names are counted.
    """

    at: int
    kind: str
    delay: int = 0
    step: Step | None = None
    of: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One actor does one thing.

    Attributes:
        actor: Who; a process of this name is started if there is none.
        act: What.
        number: Says which one, or how much.
        faults: Of its round trips.
        line: At this line of the journal's code it is killed; 0 = it is not.
    """

    actor: str
    act: str
    number: int
    faults: tuple[Fault, ...] = ()
    line: int = 0


Schedule = tuple[Step, ...]


def _window(*steps: tuple[str, str, int] | tuple[str, str, int, Fault]) -> Schedule:
    return tuple(Step(who, act, number, tuple(faults)) for who, act, number, *faults in steps)


_W, _K, _R = WRITERS[0], "keeper", "reader"
_DELETES, _FLUSHES = Step(_K, "delete_notes", 0), Step(_W, "flush", 0)
_POPS, _COPIES = Step("writer-3", "pop", 1), Step("keeper-2", "copy", 0)
_EMPTIES, _FAILS = Step("world", "empty_redis", 0), Step("world", "fail_over", 5)
# What has to happen in a certain order until a fault of the code can be seen. A part of the seeds
# has one of them among its steps. The writer is any of the seed.
WINDOWS: tuple[Schedule, ...] = (
    # deleted while the backup is away
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "mongo_away", 0)),
        *((_K, "delete_notes", 0), ("world", "mongo_back", 0), ("world", "wait", 5)),
        *((_K, "copy", 0), ("world", "empty_redis", 0), (_R, "read_notes", 1)),
    ),
    # the answer is lost, and then the log is deleted
    _window(
        *((_W, "save", 1), (_W, "flush", 0, Fault(0, "answer lost", of="append"))),
        *((_K, "delete_notes", 0), (_W, "flush", 0), (_R, "read_notes", 1)),
    ),
    # the answer is lost, then the log is copied and evicted
    _window(
        *((_W, "save", 1), (_W, "flush", 0, Fault(0, "answer lost in time", of="append"))),
        *((_K, "copy", 0), ("world", "wait", 5), (_K, "trim", 1), (_W, "flush", 0)),
        (_R, "read_notes", 1),
    ),
    # killed before or after the delivery; somebody deletes; another process delivers the journal
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_W, "save_many", 1)),
        *((_W, "flush", 0, Fault(0, "killed after", of="append")), (_K, "delete_notes", 0)),
        *((_W, "save", 1), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0), (_K, "delete_notes", 0), (_W, "save", 1)),
        *(("world", "kill", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    # copied while it changes
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_W, "save", 1)),
        (_K, "copy", 0, Fault(0, "meanwhile", step=_FLUSHES, of="insert")),
        *((_K, "copy", 0), ("world", "empty_redis", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_W, "save", 1), (_W, "flush", 0)),
        *((_W, "save", 1), (_K, "copy", 0, Fault(0, "meanwhile", step=_FLUSHES, of="ack"))),
        *((_K, "trim", 1), ("world", "empty_redis", 0), (_R, "read_notes", 1)),
    ),
    # deleted while it is being restored, or copied
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "empty_redis", 0)),
        (_R, "read_notes", 1, Fault(0, "meanwhile", step=_DELETES, of="restore")),
        (_R, "read_notes", 1),
    ),
    _window(
        *((_W, "save", 1), (_W, "flush", 0)),
        ("keeper-2", "copy", 0, Fault(0, "meanwhile", step=_DELETES, of="insert")),
        *(("world", "empty_redis", 0), (_R, "read_notes", 1)),
    ),
    # evicted while a writer goes on
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0), (_K, "copy", 0), (_W, "save", 1)),
        *((_W, "flush", 0), (_W, "save", 1), (_W, "flush", 0), ("world", "wait", 5)),
        *((_K, "trim", 1), ("world", "empty_redis", 0), (_R, "read_notes", 1)),
    ),
    # two writers of one log: the second is behind the first, is evicted early, or is killed there
    _window(
        *((_W, "save", 1), (_W, "flush", 0), ("writer-3", "save", 1), (_W, "save", 1)),
        *((_W, "flush", 0, Fault(1, "killed before", of="append")), (_W, "save", 1)),
        (_R, "read_notes", 1),
    ),
    _window(
        *((_W, "save", 1), (_W, "flush", 0, Fault(0, "answer lost in time", of="append"))),
        *(("writer-3", "save", 1), (_K, "copy", 0), ("writer-3", "save", 1), (_K, "copy", 0)),
        *((_K, "trim", 1), (_W, "flush", 0), (_R, "read_notes", 1)),
    ),
    # the answer is lost, the log is copied, and Redis is emptied
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0, Fault(0, "answer late", 2, of="append"))),
        *((_K, "copy", 0), ("world", "empty_redis", 0), (_W, "flush", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save", 1), (_W, "flush", 0, Fault(0, "killed after", of="append"))),
        *((_K, "copy", 0), ("world", "empty_redis", 0), (_W, "save", 1), (_R, "read_notes", 1)),
    ),
    # it was not there when somebody looked
    _window(
        *((_R, "read_notes", 1), (_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0)),
        *(("world", "empty_redis", 0), (_R, "read_notes", 1)),
    ),
    # the lease: Redis loses it, or it is about to end
    _window(
        *((_W, "step", 0), (_W, "renew", 0), ("world", "empty_redis", 0), (_W, "renew", 0)),
        *(("world", "wait", 1), (_W, "flush", 0), (_R, "read_episodes", 0)),
    ),
    _window(
        *((_W, "step", 0), (_W, "renew", 0), ("world", "wait", 3), (_W, "renew", 0)),
        *(("world", "wait", 3), (_W, "renew", 0), ("world", "wait", 3), (_R, "read_episodes", 0)),
    ),
    # an episode, deleted or gone from Redis, of which a dead process has left more
    _window(
        *((_W, "step", 0), (_W, "flush", 0, Fault(0, "killed after", of="append"))),
        *((_K, "delete_episode", 0), (_W, "step", 0), (_R, "read_episodes", 0)),
    ),
    _window(
        *((_W, "step", 0), (_W, "step", 0), (_W, "flush", 0), (_K, "copy", 0), (_W, "step", 0)),
        *(("world", "empty_redis", 0), ("world", "kill", 0), (_W, "step", 0)),
    ),
    # an episode is over, and nobody can say it
    _window(
        *((_W, "step", 0), (_W, "step", 0), (_W, "flush", 0), (_W, "reset", 0)),
        *(("world", "kill", 0), (_W, "step", 0), (_R, "read_episodes", 0)),
    ),
    # a failover takes the newest writes; what it took is somewhere
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "fail_over", 5)),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "step", 0), (_W, "flush", 0), (_K, "copy", 0), (_K, "delete_episode", 0)),
        *(("world", "fail_over", 5), (_K, "copy", 0), (_R, "read_episodes", 0)),
    ),
    # emptied, and begun again before anybody has asked the backup
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "empty_redis", 0)),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "step", 0), (_W, "step", 0), (_W, "flush", 0), (_K, "copy", 0)),
        *(("world", "empty_redis", 0), (_W, "step", 0), (_W, "flush", 0), (_K, "copy", 0)),
    ),
    # emptied, and begun again by another writer while the backup is away
    _window(
        *(("writer-3", "save", 0), (_K, "copy", 0), (_W, "save", 1)),
        *((_W, "flush", 0, Fault(0, "killed after", of="append")), (_K, "copy", 0)),
        *(("world", "mongo_away", 0), ("world", "empty_redis", 0), ("writer-3", "save", 1)),
        *(("writer-3", "flush", 0), (_W, "flush", 0), ("world", "mongo_back", 0), (_K, "copy", 0)),
        (_R, "read_notes", 1),
    ),
    # another backup takes over
    _window(
        *((_W, "save", 1), (_W, "flush", 0)),
        (_K, "take_turn", 0, Fault(0, "killed before", of="acknowledge")),
        *(("world", "wait", 5), ("keeper-2", "take_turn", 0), (_K, "take_turn", 0)),
    ),
    # power is cut between what is written and what is not
    _window(
        *((_W, "save", 1), ("world", "wait", 0), (_W, "save", 1), (_W, "flush", 0)),
        *(("world", "cut_power", 0), (_W, "save", 1), (_R, "read_notes", 1)),
    ),
)
WINDOW_SHARE = 0.5
# Windows and steps that were added later. They are drawn apart, so that the other steps of a seed
# stay as they are.
MORE_WINDOWS: tuple[Schedule, ...] = (
    # begun again while MongoDB is away and Redis emptied: what both hold is joined
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "mongo_away", 0)),
        *(("world", "empty_redis", 0), (_W, "save", 1), (_W, "flush", 0)),
        *(("world", "mongo_back", 0), ("world", "wait", 5), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "step", 0), (_W, "step", 0), (_W, "flush", 0), (_K, "copy", 0)),
        *(("world", "mongo_away", 0), ("world", "empty_redis", 0), (_W, "step", 0)),
        *((_W, "flush", 0), ("world", "mongo_back", 0), ("world", "wait", 5), (_K, "copy", 0)),
    ),
    # others save to it, or join it, while it is being joined
    *(
        _window(
            *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "mongo_away", 0)),
            *(("world", "empty_redis", 0), (_W, "save", 1), (_W, "flush", 0)),
            *(("world", "mongo_back", 0), ("world", "wait", 5), (_W, "save", 1)),
            *((_K, "copy", 0, Fault(at, "meanwhile", step=step, of=of)), (_R, "read_notes", 1)),
        )
        for at, of, step in ((0, "replace", _FLUSHES), (1, "read of logs", _COPIES))
    ),
    # Redis loses what is being copied, while others go on
    _window(
        *((_W, "save", 1), (_W, "flush", 0)),
        (_K, "copy", 0, Fault(0, "meanwhile", step=_EMPTIES, of="insert")),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_W, "save", 1), (_W, "flush", 0)),
        (_K, "copy", 0, Fault(0, "meanwhile", step=_FAILS, of="insert")),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    # the automatic backup is stopped, and another one copies what comes then
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "watch", 0), (_W, "save", 1), (_W, "flush", 0)),
        *((_K, "retire", 0), ("keeper-2", "watch", 0), (_K, "ask_status", 0)),
        *(("world", "empty_redis", 0), (_R, "read_notes", 1)),
    ),
    # another backup has what is deleted then, or begun again
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy_elsewhere", 0), (_K, "delete_notes", 0)),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy_elsewhere", 0)),
    ),
    _window(
        *((_W, "step", 0), (_W, "step", 0), (_W, "flush", 0), (_K, "copy_elsewhere", 0)),
        *((_W, "step", 0), (_K, "delete_episode", 0), (_K, "copy_elsewhere", 0)),
    ),
    # two backups copy at once, or one after the other was killed, what shares documents
    _window(
        *((_W, "vector_step", 0), (_W, "vector_step", 0), (_W, "vector_step", 0)),
        (_W, "flush", 0),
        (_K, "copy", 0, Fault(0, "meanwhile", step=_COPIES, of="bundles")),
        *((_K, "copy", 0), ("world", "empty_redis", 0), (_R, "read_episodes", 0)),
    ),
    _window(
        *((_W, "vector_step", 0), (_W, "vector_step", 0), (_W, "vector_step", 0)),
        *((_W, "flush", 0), (_K, "copy", 0, Fault(0, "killed before", of="acknowledge"))),
        *(("keeper-2", "copy", 0), (_K, "delete_episode", 0), (_K, "copy", 0)),
        *(("world", "empty_redis", 0), (_R, "read_episodes", 0)),
    ),
    _window(
        *((_W, "vector_step", 0), (_W, "flush", 0)),
        (_K, "copy", 0, Fault(0, "stopped", 7, of="insert of logs")),
        *[(_W, "vector_step", 0)] * 4,
        *((_W, "flush", 0), ("keeper-2", "copy", 0), ("world", "wait", 0)),
        *(("world", "empty_redis", 0), (_R, "read_episodes", 0)),
    ),
    # a failover takes what was copied, or half copied, and others take its place
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "wait", 1)),
        *((_K, "take_turn", 0), ("world", "wait", 1), (_W, "save", 1), (_W, "flush", 0)),
        *(
            (_K, "copy", 0, Fault(0, "killed after", of="insert of chunks")),
            ("world", "fail_over", 2),
        ),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "wait", 1)),
        *((_K, "take_turn", 0), ("world", "wait", 1), (_W, "save", 1), (_W, "flush", 0)),
        *((_K, "copy", 0), ("world", "fail_over", 2), (_K, "copy", 0), (_W, "save", 1)),
        *((_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    # taken off the log before its writer has heard that it is there
    _window(
        *((_W, "save", 1), (_W, "flush", 0, Fault(0, "answer lost in time", of="append"))),
        *(("writer-3", "pop", 1), (_W, "flush", 0), ("writer-3", "pop", 1), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0, Fault(0, "killed after", of="append"))),
        *(("writer-3", "pop", 1), (_W, "save", 1), (_W, "pop", 1), (_R, "read_notes", 1)),
    ),
    # taken off a log that is copied, evicted or gone from Redis
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0), (_K, "copy", 0), (_W, "save", 1)),
        *((_W, "flush", 0), ("world", "wait", 5), (_K, "trim", 1), (_W, "pop", 1)),
        *((_K, "copy", 0), ("world", "empty_redis", 0), (_W, "pop", 1), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0)),
        (_K, "copy", 0, Fault(0, "meanwhile", step=_POPS, of="insert")),
        *((_K, "copy", 0), ("world", "empty_redis", 0), (_W, "pop", 1), (_R, "read_notes", 1)),
    ),
    # a failover takes back that a log was deleted, or that something was taken off it
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "wait", 1)),
        *((_K, "delete_notes", 0), ("world", "fail_over", 5), (_K, "copy", 0)),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0), ("world", "wait", 1), (_K, "delete_notes", 0)),
        *(("world", "fail_over", 5), (_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0)),
        *(("world", "empty_redis", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "step", 0), (_W, "step", 0), (_W, "flush", 0), ("world", "wait", 1)),
        *((_K, "copy", 0), (_K, "delete_episode", 0), ("world", "fail_over", 5), (_W, "step", 0)),
        *((_W, "flush", 0), (_K, "copy", 0), (_R, "read_episodes", 0)),
    ),
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "wait", 1)),
        *((_W, "pop", 1), ("world", "fail_over", 5), (_W, "save", 1), (_W, "flush", 0)),
        *((_K, "copy", 0), ("writer-3", "pop", 1), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "save_many", 1), (_W, "flush", 0), ("world", "wait", 1), (_W, "pop", 1)),
        *(("world", "fail_over", 5), (_K, "copy", 0), ("world", "empty_redis", 0)),
        *(
            (_W, "pop", 1),
            (_W, "save", 1),
            (_W, "flush", 0),
            (_K, "copy", 0),
            (_R, "read_notes", 1),
        ),
    ),
)
MORE_SHARE = 0.3
_MOVES = {number: Step("world", "move_slot", number) for number in (0, 1, 2)}
# On a cluster, each seed has one of these among its steps, or some of `OF_CLUSTER`.
CLUSTER_WINDOWS: tuple[Schedule, ...] = (
    # a slot moves, at once or key by key, and an answer is lost
    *(
        _window(
            *((_W, "save", 1), (_W, "flush", 0), ("world", "move_slot", number), (_W, "save", 1)),
            *((_W, "flush", 0, Fault(0, "answer lost", of="append")), (_W, "save", 1)),
            *((_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1), ("writer-3", "pop", 1)),
        )
        for number in (0, 1)
    ),
    _window(
        *((_W, "step", 0), (_W, "flush", 0), ("world", "move_slot", 4), (_W, "step", 0)),
        *((_W, "flush", 0, Fault(0, "answer lost", of="append")), (_W, "step", 0)),
        *((_K, "copy", 0), (_R, "read_episodes", 0), (_K, "delete_episode", 0)),
    ),
    # it moves just before a round trip
    *(
        _window(
            *((_W, "save_many", 1), (_W, "flush", 0), (_K, "copy", 0), (_W, "save", 1)),
            (_W, "flush", 0, Fault(0, "meanwhile", step=step, of="append")),
            (_K, "copy", 0, Fault(0, "meanwhile", step=_MOVES[1], of="acknowledge")),
            *((_W, "pop", 1), (_R, "read_notes", 1)),
        )
        for step in _MOVES.values()
    ),
    # for a while, a part of its keys is here and the others there
    *(
        _window(
            *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "move_slot", number)),
            *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
            *(("world", "finish_moves", 0), (_W, "flush", 0), (_K, "copy", 0)),
            (_R, "read_notes", 1),
        )
        for number in (2, 26, 50)
    ),
    # while what Redis and MongoDB hold is joined, or put back
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "mongo_away", 0)),
        *(("world", "empty_redis", 0), (_W, "save", 1), (_W, "flush", 0)),
        *(("world", "mongo_back", 0), ("world", "wait", 5)),
        (_K, "copy", 0, Fault(0, "meanwhile", step=_MOVES[1], of="replace")),
        (_R, "read_notes", 1),
    ),
    *(
        _window(
            *((_W, "save_many", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "wait", 5)),
            *((_K, "trim", 1), *some),
            (_R, "read_notes", 1, Fault(0, "meanwhile", step=_MOVES[1], of=of)),
            *((_W, "save", 1), (_W, "flush", 0), (_R, "read_notes", 1)),
        )
        for of, some in (("refill", ()), ("restore", [("world", "empty_redis", 2)]))
    ),
    # one primary fails between an append and the copy
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "wait", 1)),
        *((_W, "save", 1), (_W, "flush", 0), ("world", "fail_over", 2), (_K, "copy", 0)),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    _window(
        *((_W, "step", 0), (_W, "step", 0), (_W, "flush", 0), (_K, "copy", 0)),
        *(("world", "wait", 1), (_W, "step", 0), (_W, "flush", 0), ("world", "fail_over", 5)),
        *((_K, "copy", 0), (_W, "step", 0), (_W, "flush", 0), (_R, "read_episodes", 0)),
    ),
    # it fails when its slot has just moved
    _window(
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), ("world", "wait", 1)),
        *(("world", "move_slot", 0), (_W, "save", 1), (_W, "flush", 0), ("world", "fail_over", 2)),
        *((_W, "save", 1), (_W, "flush", 0), (_K, "copy", 0), (_R, "read_notes", 1)),
    ),
    # a failover takes back a deletion on one primary, while others have theirs
    _window(
        *((_W, "save", 1), (_W, "save", 4), (_W, "flush", 0), (_K, "copy", 0)),
        *(("world", "wait", 1), (_K, "delete_notes", 1), (_K, "delete_notes", 4)),
        *(("world", "fail_over", 2), (_W, "save", 4), (_W, "flush", 0), (_K, "copy", 0)),
        *((_R, "read_notes", 1), (_R, "read_notes", 4)),
    ),
    # a listing of all buckets while one primary is away, or was emptied
    *(
        _window(
            *((_W, "vector_step", 0), (_W, "vector_step", 0), (_W, "flush", 0)),
            *((_R, "read_episodes", 0), ("world", "redis_away", number)),
            *((_R, "read_episodes", 0), (_W, "vector_step", 0), ("world", "wait", 4)),
            *((_R, "read_episodes", 0), (_W, "flush", 0), ("world", "redis_back", 0)),
            *((_W, "flush", 0), (_R, "read_episodes", 0)),
        )
        for number in (1, 7)
    ),
    _window(
        *((_W, "vector_step", 0), (_W, "vector_step", 0), (_W, "flush", 0), (_K, "copy", 0)),
        *((_W, "vector_step", 0), ("world", "empty_redis", 1), (_R, "read_episodes", 0)),
        *((_W, "flush", 0), (_K, "copy", 0), (_R, "read_episodes", 0)),
    ),
    # one primary is full, the others take what comes
    _window(
        *((_W, "save", 1), (_W, "save", 4), (_W, "flush", 0), ("world", "fill_redis", 2)),
        *((_W, "save", 1), (_W, "save", 4), (_W, "flush", 0), (_K, "copy", 0)),
        *(("world", "free_redis", 0), (_W, "flush", 0), (_R, "read_notes", 1)),
    ),
)
# What two copies at once may find, and what may happen between the two: see `_two_copies`.
_SAVES = _window((_W, "save", 1), (_W, "flush", 0))
_GROWS = _window(*[(_W, "vector_step", 0)] * 3, (_W, "flush", 0))
_COPIED = _window((_K, "copy", 0), ("world", "wait", 1), (_K, "take_turn", 0), ("world", "wait", 1))
BEFORE_TWO_COPIES: tuple[Schedule, ...] = (
    _SAVES + _SAVES,
    _GROWS,
    _GROWS + _COPIED + _GROWS,
    # a killed copy has left a batch, and another one is in its place in Redis
    (
        *(_SAVES + _COPIED + _SAVES),
        *_window((_K, "copy", 0, Fault(0, "killed after", of="insert of chunks"))),
        *(_window(("world", "fail_over", 2)) + _SAVES + _SAVES),
    ),
    # begun again while MongoDB was away
    (
        *(_SAVES + _COPIED + _window(("world", "mongo_away", 0), ("world", "empty_redis", 0))),
        *(_SAVES + _window(("world", "mongo_back", 0), ("world", "wait", 5))),
    ),
    _SAVES + _COPIED + _SAVES + _window((_K, "copy", 0), ("world", "fail_over", 2)) + _SAVES,
    _SAVES + _COPIED + _SAVES + _window((_K, "delete_notes", 0)) + _SAVES,
    _SAVES + _SAVES + _COPIED + _window(("writer-3", "pop", 1)) + _SAVES,
    _SAVES + _SAVES + _COPIED + _window(("world", "wait", 5), (_K, "trim", 1)) + _SAVES,
)
BETWEEN_TWO_COPIES: tuple[Schedule, ...] = (
    (),
    _SAVES,
    *(_window(("world", what, 2)) + _SAVES for what in ("empty_redis", "fail_over")),
)
MOST_ROUND_TRIPS_OF_A_COPY = 55
TWO_COPIES_SHARE = 0.05
OF_CLUSTER = {"move_slot": 6, "finish_moves": 1, "fail_over": 3, "empty_redis": 2}
OF_CLUSTER |= {"redis_away": 1, "redis_back": 1, "start_redis_again": 1}
CLUSTER_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a schedule is made of: each has a part of everything only, and so more of it.

    What is rare hides behind what is frequent.

    Attributes:
        actors: Who takes steps.
        world: What befalls the servers, and how often.
        share: How many of the steps have a fault.
        faults: What becomes of round trips, and how often.
    """

    actors: Sequence[str]
    world: dict[str, int]
    share: float
    faults: dict[str, int]


def is_on_cluster(seed: int) -> bool:
    """Whether Redis is a cluster in the schedule of a seed. Drawn apart, as `MORE_WINDOWS`."""
    return Random(seed + 2**41).random() < CLUSTER_SHARE


def made(seed: int, *, on_cluster: bool = False) -> Schedule:
    """The schedule of a seed."""
    rng = Random(seed)
    kind = _kind(rng)
    some = [_step(rng, kind) for _ in range(rng.randint(4, rng.choice(MOST_STEPS)))]
    if rng.random() < WINDOW_SHARE:
        some = list(_with_window(rng, kind, some, WINDOWS))
    steps = _with_more(Random(seed + 2**40), kind, some)
    if on_cluster:
        steps = _with_slots(Random(seed + 2**42), kind, list(steps))
    apart = Random(seed + 2**43)
    return (*steps, *_two_copies(apart)) if apart.random() < TWO_COPIES_SHARE else steps


def _with_slots(rng: Random, of: _Kind, steps: list[Step]) -> Schedule:
    """The steps, with a window of clusters, or what befalls a cluster alone, among them."""
    if rng.random() < 0.5:
        return _with_window(rng, of, steps, CLUSTER_WINDOWS)
    for _ in range(rng.randint(1, 4)):
        step = _step_of(rng, of, "world", OF_CLUSTER)
        at = rng.randint(0, len(steps))
        around = steps[at] if at < len(steps) else None
        if around is not None and around.actor != "world" and rng.random() < 0.5:
            fault = Fault(int(rng.expovariate(0.25)), "meanwhile", step=step)
            steps[at] = replace(around, faults=(*around.faults, fault))
        else:
            steps.insert(at, step)
    return tuple(steps)


def _two_copies(rng: Random) -> Schedule:
    """Two backups copy at once; each is stopped at some round trip, and goes on after the other."""
    before, between = rng.choice(BEFORE_TWO_COPIES), rng.choice(BETWEEN_TWO_COPIES)
    first, second = (rng.randrange(MOST_ROUND_TRIPS_OF_A_COPY) for _ in range(2))
    return (
        *before,
        Step(_K, "copy", 0, (Fault(first, "stopped", len(between) + 2),)),
        *between,
        Step("keeper-2", "copy", 0, (Fault(second, "stopped", 2),)),
        *[Step("world", "wait", 0)] * 2,
    )


def _with_more(rng: Random, of: _Kind, steps: list[Step]) -> Schedule:
    """The steps; in some schedules one of `MORE_WINDOWS`, or steps of the backup, among them."""
    if rng.random() >= MORE_SHARE:
        return tuple(steps)
    if rng.random() < 0.5:
        return _with_window(rng, of, steps, MORE_WINDOWS)
    for _ in range(rng.randint(1, 3)):
        actor = rng.choice([one for one in of.actors if one in MORE_ACTS])
        steps.insert(rng.randint(0, len(steps)), _step_of(rng, of, actor, MORE_ACTS[actor]))
    return tuple(steps)


def _with_window(
    rng: Random, of: _Kind, steps: Sequence[Step], windows: Sequence[Schedule]
) -> Schedule:
    """The steps, with those that lead into a window somewhere among them."""
    window = rng.choice(windows)
    writer = rng.choice([one for one in of.actors if one in WRITERS])
    at, mixed = rng.randint(0, len(steps)), list[Step]()
    rest = iter(steps[at:])
    for step in window:
        # Seldom a fault beside that of the window, and seldom a step of others before it.
        mixed += [one for one in [next(rest, None)] if one is not None and rng.random() < 0.2]
        faults = [replace(one, step=_by(writer, one.step)) for one in step.faults]
        mixed.append(replace(_by(writer, step), faults=tuple(faults)))
    return (*steps[:at], *mixed, *rest)


def _by(writer: str, step: Any) -> Any:
    """A step of a window, taken by a writer of this seed."""
    is_of_writer = step is not None and step.actor == WRITERS[0]
    return replace(step, actor=writer) if is_of_writer else step


def _kind(rng: Random) -> _Kind:
    share = rng.choice((0.0, FAULTS, FAULTS, 2 * FAULTS))
    world = {act: weight for act, weight in OF_WORLD.items() if rng.random() < 0.6}
    world.setdefault("wait", 6)
    faults = {kind: weight for kind, weight in FAULTS_OF_CALLS.items() if rng.random() < 0.6}
    actors = rng.sample(WRITERS, rng.choice(NUMBERS_OF_WRITERS))
    actors += ["reader"] if rng.random() < 0.6 else []
    actors += ["keeper-2"] if rng.random() < 0.3 else []
    actors += ["keeper", "world"]
    return _Kind(actors, world, share, faults or FAULTS_OF_CALLS)


def _step(rng: Random, of: _Kind, depth: int = 0) -> Step:
    (actor,) = rng.choices(of.actors, [SHARES[one] for one in of.actors])
    acts = of.world if actor == "world" else ACTS[actor]
    if depth and actor in WRITERS:
        acts = OF_WRITERS_MEANWHILE
    return _step_of(rng, of, actor, acts, depth)


def _step_of(rng: Random, of: _Kind, actor: str, acts: dict[str, int], depth: int = 0) -> Step:
    """A step of an actor, which does one of some acts."""
    (act,) = rng.choices(list(acts), list(acts.values()))
    number, faults = rng.randrange(1000), list[Fault]()
    line = rng.randrange(1, 60) if actor in WRITERS and rng.random() < of.share / 10 else 0
    while actor != "world" and depth < 3 and rng.random() < of.share:
        (kind,) = rng.choices(list(of.faults), list(of.faults.values()))
        meanwhile = _step(rng, of, depth + 1) if kind == "meanwhile" else None
        (call,) = rng.choices(list(OF[actor]), list(OF[actor].values()))
        at = min(int(rng.expovariate(1.0 if call else 0.25)), 60)
        faults.append(Fault(at, kind, rng.randrange(1, 30), meanwhile, call))
    return Step(actor, act, number, tuple(faults), line)


def shrunk(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """A smaller schedule that fails, too."""
    size = len(schedule)
    while size:
        at = 0
        while at < len(schedule):
            fewer = schedule[:at] + schedule[at + size :]
            if fails(fewer):
                schedule = fewer
            else:
                at += size
        size //= 2
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for at in range(len(schedule)):
            for simpler in _simpler(schedule[at]):
                tried = (*schedule[:at], simpler, *schedule[at + 1 :])
                if fails(tried):
                    schedule, is_smaller = tried, True
                    break
    return _without_steps(schedule, fails)


def _without_steps(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    at = 0
    while at < len(schedule):
        fewer = schedule[:at] + schedule[at + 1 :]
        if fails(fewer):
            schedule = fewer
        else:
            at += 1
    return schedule


def _simpler(step: Step) -> Iterator[Step]:
    """The same step with one thing less."""
    if step.line:
        yield replace(step, line=0)
    for at, fault in enumerate(step.faults):
        yield replace(step, faults=step.faults[:at] + step.faults[at + 1 :])
        if fault.step is not None:
            for inner in _simpler(fault.step):
                simpler = replace(fault, step=inner)
                faults = (*step.faults[:at], simpler, *step.faults[at + 1 :])
                yield replace(step, faults=faults)
