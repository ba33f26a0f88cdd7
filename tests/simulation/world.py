"""The world of a simulation: its time, its servers, its files, and the processes in it.

The code of the package runs as it is. What it asks of its surroundings (clocks, randomness, clients
of the servers, threads, room on the disk) it gets from here, for as long as `World.entered` lasts.

One process runs at a time. Where it waits for a server, others may take steps before it goes on
(`meanwhile`), or it is stopped there, and goes on some steps later (`stopped`). So the round trips
of two processes come in any order.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType, SimpleNamespace
from typing import Any

import cluster_model
import mongo_model
import redis
import redis_model
from cluster_model import ClusterModel
from mongo_model import MongoModel
from pausable import Pausable
from pymongo.errors import AutoReconnect, NetworkTimeout, PyMongoError
from redis_model import Calls, Model, RedisModel
from schedule import Fault, Step

from jamboree_gym import Jamboree
from jamboree_gym.backup import compare, follow, portions, transfer
from jamboree_gym.backup import copy as backup_copy
from jamboree_gym.backup import restore as backup_restore
from jamboree_gym.backup.eviction import trimmer
from jamboree_gym.backup.waiting import StopSignal
from jamboree_gym.connection import connection
from jamboree_gym.delivery import lease, opened, outbox, pacing, row_writer, step_outbox, writer
from jamboree_gym.environment import provenance
from jamboree_gym.journal import journal, restarts, segments
from jamboree_gym.keys import Keyspace
from jamboree_gym.store import lost_deletions, read_through, restore
from jamboree_gym.store.mongo import bundles
from jamboree_gym.store.mongo import store as mongo_store
from jamboree_gym.store.mongo import writer as mongo_writer
from jamboree_gym.store.redis import buckets, scripts
from jamboree_gym.store.redis import store as redis_store
from jamboree_gym.store.redis.cluster import round_trip
from jamboree_gym.store.redis.cluster.nodes import Nodes
from jamboree_gym.store.redis.scripts import Script

__all__ = [
    "ASK_AGAIN_S",
    "ELSEWHERE",
    "NAMESPACE",
    "NOT_DONE",
    "SPACE",
    "Killed",
    "Process",
    "Running",
    "World",
]

BEGIN_S = 1_800_000_000.0  # epoch seconds
ROUND_TRIP_S = 5e-4
ASK_AGAIN_S = 31.0  # MongoDB was away, and is not asked before
PAGE_BYTES = 4096
LOOK_S = 1e-6  # so much later it is at each look at a clock: nobody waits in a loop for ever
NAMESPACE = "sim"
SPACE = Keyspace(NAMESPACE)
ELSEWHERE = "mongodb://elsewhere"
"""Another backup, to which the first one is copied."""
NOT_DONE = "nothing was done"
"""In the error of a call for which there was no room."""
LITTLE_ROOM: dict[str, Any] = {"max_pending_bytes": 400, "when_full": "raise"}
LITTLE_ROOM_SHARE = 0.25
MODES = {"writer-3": "sync", "writer-4": "fsync", "reader": "sync"}
MODES |= {"keeper": "sync", "keeper-2": "sync"}
# Above these, something is large, and takes other ways. A seed chooses some of them.
SMALL: tuple[tuple[Any, str, int], ...] = (
    (compare, "FEW_REVISIONS", 1),
    (backup_copy, "FEW_REVISIONS", 1),
    (backup_copy, "MAX_INLINE_BYTES", 200),
    (restore, "PAGE_BYTES", 300),
    (read_through, "MAX_PUT_BACK_BYTES", 300),
    (outbox, "MAX_BATCHES_PER_APPEND", 1),
    (outbox, "MAX_BATCH_RECORDS", 2),
    (row_writer, "ROWS_PER_BATCH", 2),
    (step_outbox, "ROWS_PER_BATCH", 2),
)
# These were added later. They are drawn apart, as `MORE_WINDOWS`.
MORE_SMALL: tuple[tuple[Any, str, int], ...] = (
    (scripts, "PART_BYTES", 200),
    (portions, "ROUND_TRIP_BYTES", 300),
    (portions, "FIRST_ROWS", 1),
    (transfer, "LOGS_AT_ONCE", 1),
    (transfer, "PAGE_BYTES", 100),
    (lost_deletions, "LOGS_AT_ONCE", 1),
    (trimmer, "LOGS_AT_ONCE", 1),
    (backup_restore, "LOGS_AT_ONCE", 1),
    (mongo_writer, "MAX_DOCUMENTS", 1),
    (bundles, "BUNDLES_AT_ONCE", 1),
)
MORE_SMALL_SHARE = 0.1
# Each seed chooses one of these. What is done to each bucket, or to each byte of a file, is done
# less often then.
ONE_OF: tuple[tuple[Any, str, tuple[int, ...]], ...] = (
    (buckets, "BUCKETS", (1, 2, 2, 2, 2, 2, 3, 16)),
    (segments, "FILE_BYTES", (1 << 14, 1 << 15, 1 << 16, 1 << 16, 1 << 16, 1 << 20)),
)
SMALL_SHARE = 0.25
SINGLE_SHARE = 0.25
NEEDS_ALL_SHARE = 0.7
PATIENCE_S = 0.1  # ten tries with a slot that moves
_JOURNAL_CODE = str(Path(journal.__file__).parent)
# The garbage collector calls these, at points that no seed decides.
_OF_THE_COLLECTOR = ("_release", "_is_unused", "_unused_bytes", "_remove")


class Killed(BaseException):
    """A process ends where it stands."""


@dataclass(eq=False)
class Process:
    """One process of an actor, with a Jamboree of its own.

    Attributes:
        actor: Whose.
        name: Tells it from those of the same actor before.
        jam: Its Jamboree, once it is open.
        is_alive: Whether it can still do anything.
        names_here: Its writers.
        kept: What it holds on to: handlers, environments, followers.
        threads: What it would have threads do.
        files: Those of its journal, as they were when it was killed.
        leased_until: Its lease is there for sure until then, seconds since the beginning.
        stopped: The step in whose middle it is stopped.
        waits_for: Before which round trip it is, while others take steps.
        waits_at: To which server of Redis that is.
    """

    actor: str
    name: str
    mode: str
    jam: Jamboree | None = None
    is_alive: bool = True
    names_here: set[str] = field(default_factory=set)
    kept: dict[Any, Any] = field(default_factory=dict)
    threads: list[Callable[[], None]] = field(default_factory=list)
    leased_until: float = -math.inf
    files: dict[Path, bytes] = field(default_factory=dict)
    stopped: Pausable | None = None
    waits_for: str = ""
    waits_at: RedisModel | None = None

    @property
    def connection(self) -> connection.Connection:
        """That of its Jamboree."""
        assert self.jam is not None
        return self.jam._connection


@dataclass(eq=False)
class Running:
    """A step that a process takes, and how far it is.

    Attributes:
        seen: How many round trips there were, by what faults count.
        had_trouble: Whether a fault has met it.
        pausable: What is stopped if it is.
    """

    process: Process
    step: Step
    pausable: Pausable | None = None
    seen: Counter[str] = field(default_factory=Counter)
    had_trouble: bool = False


@dataclass(eq=False)
class Late:
    """A command that is on its way although nobody waits for it any more."""

    due: int
    what: str
    execute: Callable[[], object]


class World:
    """Everything that is simulated.

    Args:
        seed: Of the random bytes that the package draws.
        directory: Where the journals are.
        act: Takes a step of another actor.
        arrives: Executes a command that was on its way for long, given with its name.
        on_cluster: Whether Redis is a cluster.

    Attributes:
        seconds: Since the beginning.
        offsets: How far the clock of an actor, or of the server, is wrong.
        processes: The living process of each actor.
        story: What has happened, a line for each event.
        disk_is_full: Whether the journal can make no files.
        elsewhere: Another MongoDB, to which backups are copied; it always answers.
        mongo_was_away: Whether MongoDB has ever not answered.
        mongo_uncertain_until: Until then a process may not ask it, as it was away.
        round_trips: How many there were.
        steps: How many steps of the schedule were begun.
        dead_at: When processes were killed.
        reads_singly: Whether the episodes are read one by one in the end.
        torn: Writers whose journals a power cut has met, and the names of their processes.
    """

    def __init__(
        self,
        seed: int,
        directory: Path,
        act: Callable[[Step], None],
        arrives: Callable[[str, Callable[[], object]], object],
        *,
        on_cluster: bool = False,
    ) -> None:
        self.arrives = arrives
        self.directory = directory
        self.seconds = 0.0
        self.offsets: dict[str, float] = {}
        self.mongo, self.elsewhere = MongoModel(), MongoModel()
        self.processes: dict[str, Process] = {}
        self.stack: list[Running] = []
        self.story: list[str] = []
        self.disk_is_full = False
        self.mongo_was_away = False
        self.mongo_uncertain_until = -math.inf
        self.round_trips = self.steps = self._starts = 0
        self.dead_at: dict[str, float] = {}
        self._act = act
        self._random = Random(seed)
        self._late: list[Late] = []
        self.torn: set[str] = set()
        self._opened_by: dict[str, str] = {}
        self._on_disk: dict[Path, bytes] = {}
        self.reads_singly = self._random.random() < SINGLE_SHARE
        apart = Random(seed + 2**40)
        has_room = apart.random() >= LITTLE_ROOM_SHARE
        self._more_small = [one for one in MORE_SMALL if apart.random() < MORE_SMALL_SHARE]
        self._room: dict[str, Any] = {} if has_room else LITTLE_ROOM
        self.redis: RedisModel | ClusterModel = self._new_redis(on_cluster, apart)
        self._start_machine()
        self._stopped: list[tuple[int, Process]] = []
        self._numbers: dict[str, int] = {}

    def _new_redis(self, on_cluster: bool, rng: Random) -> RedisModel | ClusterModel:
        def now() -> float:
            return self._time_of("server")

        if not on_cluster:
            return RedisModel(now)
        return ClusterModel(now, lambda: self.seconds, needs_all=rng.random() < NEEDS_ALL_SHARE)

    def tell(self, event: str) -> None:
        """Add an event to the story."""
        self.story.append(f"{self.seconds:8.3f} s {'  ' * len(self.stack)}{event}")

    # -- time -------------------------------------------------------------------------------

    def _time_of(self, who: str) -> float:
        return BEGIN_S + self.seconds + self.offsets.get(who, 0.0)

    def time(self) -> float:
        """The clock of the process that runs."""
        self.seconds += LOOK_S
        return self._time_of(self.stack[-1].process.actor if self.stack else "")

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        self.seconds += LOOK_S
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.seconds += max(0.0, seconds)

    # -- surroundings -----------------------------------------------------------------------

    @contextmanager
    def entered(self) -> Iterator[None]:
        """While this lasts, the package lives in this world."""
        draw = self._random.randbytes
        token = lambda nbytes=8: draw(nbytes).hex()  # noqa: E731
        no_threads = SimpleNamespace(**{**vars(threading), "Thread": self._thread})
        replaced: list[tuple[Any, str, Any]] = [
            (time, "time", self.time),
            (time, "monotonic", self.monotonic),
            (time, "sleep", self.sleep),
            (time, "thread_time", lambda: 0.0),
            (os, "urandom", draw),
            (restarts, "_BOOT_ID", self.directory / "boot_id"),
            (os, "posix_fallocate", self._allocate(os.posix_fallocate)),
            (secrets, "token_hex", token),
            (provenance, "_git_commit", lambda: None),  # git would wait by the simulated clock
            # The slot of a provenance is that of its digest.
            (provenance, "os", SimpleNamespace(**{**vars(os), "getpid": lambda: 1})),
            (provenance, "socket", SimpleNamespace(gethostname=lambda: "simulated")),
            (bundles, "token_hex", token),
            (follow, "StopSignal", lambda: _Stop(self.sleep)),
            (follow, "wait_for_change", self._wait_for_change),
            (pacing.Schedule, "wait_for_delivery", self._wait_for_delivery()),
            (writer, "threading", no_threads),
            (lease, "threading", no_threads),
            (connection._peers, "of", lambda *_: ()),
            (opened, "check_threads", lambda: None),
            (mongo_store, "check_threads", lambda: None),
            (opened.closer, "drop", lambda *_: None),
            (redis_store, "client_from_url", self._redis_client),
            (redis_store, "nodes_from_url", self._redis_nodes),
            (round_trip, "PATIENCE_S", PATIENCE_S),
            (mongo_store, "client_from_url", self._mongo_client),
            *(one for one in SMALL if self._random.random() < SMALL_SHARE),
            *self._more_small,
            *((owner, name, self._random.choice(some)) for owner, name, some in ONE_OF),
        ]
        with ExitStack() as exits:
            exits.enter_context(_replaced(replaced))
            exits.enter_context(_told_to(self))
            exits.callback(_set_writers_here, opened.writers_here)
            buckets._epoch_names.after_fork_in_child()
            try:
                yield
            finally:
                for process in list(self.processes.values()):
                    self.kill(process)

    @property
    def is_cluster(self) -> bool:
        """Whether Redis is a cluster."""
        return isinstance(self.redis, ClusterModel)

    def part_of(self, slot: int) -> RedisModel:
        """The primary that has a slot."""
        found = self.redis.owner_of(slot) if isinstance(self.redis, ClusterModel) else self.redis
        assert found is not None
        return found

    def slot_of_log(self, key: str) -> int:
        """The slot of a log, and of all else in its bucket."""
        return self.slots()[SPACE.bucket_of(key, buckets.BUCKETS)]

    def logs_of(self, parts: Sequence[RedisModel] | None, keys: Mapping[str, str]) -> set[str]:
        """Those of some logs that may be on some primaries: what their keys are mapped to."""
        if parts is None or not isinstance(self.redis, ClusterModel):
            return set(keys.values())
        found = set()
        for key, name in keys.items():
            slot = self.slot_of_log(key)
            move = self.redis.moves.get(slot)
            here = {self.part_of(slot)} if move is None else {move.source, move.to}
            found |= {name} if here & set(parts) else set()
        return found

    def slots(self) -> list[int]:
        """Of each bucket."""
        tags = [bucket.tag for bucket in SPACE.buckets(buckets.BUCKETS)]
        return [cluster_model.slot_of(tag.encode()) for tag in tags]

    def slots_of_no_bucket(self) -> list[int]:
        """Of each key that is in no bucket: leases, blobs, and what the backup says."""
        found = {key for part in self.redis.parts for key in part.keyspace.values}
        return [cluster_model.slot_of(key) for key in sorted(found) if b"}" not in key]

    def _redis_client(self, _: str) -> redis.Redis:
        assert isinstance(self.redis, RedisModel)
        return redis_model.client_of(self.redis, self)

    def _redis_nodes(self, _: str) -> Nodes:
        assert isinstance(self.redis, ClusterModel)
        return cluster_model.nodes_of(self.redis, self)

    def _mongo_client(self, url: str) -> Any:
        if url == ELSEWHERE:
            return mongo_model.client_of(self.elsewhere, self._carry_elsewhere)
        return mongo_model.client_of(self.mongo, self.carry_request)

    def _wait_for_delivery(self) -> Callable[[Any, float], None]:
        def wait_for_delivery(_: Any, timeout_s: float) -> None:
            """The writer's thread delivers; one that asks the backup for it may end meanwhile."""
            self.sleep(timeout_s)
            process = self.stack[-1].process
            if process.threads:
                process.threads.pop(0)()
            process.connection.writer.deliver_round()

        return wait_for_delivery

    def _wait_for_change(self, _: Any, __: Any, timeout_s: float) -> bool:
        """The bell rings at once, or not at all."""
        has_rung = self.round_trips % 2 == 0
        self.sleep(0.0 if has_rung else timeout_s)
        return has_rung

    def _allocate(self, real: Callable[..., None]) -> Callable[..., None]:
        def allocate(descriptor: int, offset: int, size: int) -> None:
            if self.disk_is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor, offset, size)

        return allocate

    def _thread(self, target: Callable[[], None], name: str = "", daemon: bool = True) -> Any:
        """A thread of the package: what ends by itself is done as a step, another has no place."""

        def start() -> None:
            if name != "jamboree-ask":
                raise RuntimeError("can't start new thread")
            self.stack[-1].process.threads.append(target)

        return SimpleNamespace(start=start, is_alive=lambda: False, join=lambda *_: None)

    # -- processes --------------------------------------------------------------------------

    def process_of(self, actor: str) -> Process:
        """The process of an actor; a new one if there is none."""
        found = self.processes.get(actor)
        if found is None:
            number = self._numbers[actor] = self._numbers.get(actor, 0) + 1
            found = Process(actor, f"{actor}.{number}", MODES.get(actor, "buffered"))
            self.processes[actor] = found
        return found

    def open(self, process: Process) -> None:
        """Open its Jamboree, which delivers what dead processes have left."""
        if process.jam is None:
            process.jam = Jamboree(
                "redis+cluster://simulated" if self.is_cluster else "redis://simulated",
                "mongodb://simulated",
                home=self.directory,
                namespace=NAMESPACE,
                write=process.mode,  # type: ignore[arg-type]
                backup=False,
                clock=self.time,
                **self._room,
            )
            self._opened_by[process.connection.writer_name] = process.name

    def end(self, process: Process) -> None:
        """It is dead: its files stay as they are, and it says nothing any more."""
        process.is_alive = False
        self.dead_at[process.name] = self.seconds
        self.processes.pop(process.actor, None)
        if process.jam is None:
            return
        ended = process.connection
        ended._closed = True
        ended._if_dropped.detach()
        ended._at_exit.cancel()
        segments, descriptor = ended.journal._segments, ended.journal._descriptor
        if segments is not None:
            segments.leave()
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
        ended.journal._descriptor = None
        mine = [one for one in self.files() if one.name.startswith(f"{ended.writer_name}.")]
        _close_files(path for path in mine if not _is_segment(path))
        process.files = {path: path.read_bytes() for path in mine if _is_segment(path)}

    def forget_last_words(self, process: Process) -> None:
        """What a process wrote while it unwound is not there: a killed one does not unwind.

        Nor does it remove a file that it could not finish. What others have taken over is theirs.
        """
        for path, content in process.files.items():
            if not path.with_suffix(journal.LOCK_SUFFIX).exists():
                continue
            with path.open("r+b" if path.exists() else "wb") as file:  # in place, as it is mapped
                file.write(content)
        process.files = {}

    @contextmanager
    def running(
        self, process: Process, step: Step, pausable: Pausable | None = None
    ) -> Iterator[Running]:
        """While this lasts, it is the one that runs."""
        now = Running(process, step, pausable)
        self.stack.append(now)
        _set_writers_here(process.names_here)
        # Not while it opens: a lock that it is just taking would have no owner.
        line = step.line if process.jam is not None else 0
        tracer = _KilledAt(line, lambda: self._kill_in_journal(process)) if line else None
        before = sys.gettrace()
        is_changed = tracer is not None or isinstance(before, _KilledAt)
        if is_changed:  # what measures coverage stays
            sys.settrace(tracer)
        try:
            yield now
        finally:
            if is_changed:
                sys.settrace(before)
            self.stack.pop()
            if self.stack:
                self.stack[-1].had_trouble |= now.had_trouble
            self._set_names_here()

    # -- round trips ------------------------------------------------------------------------

    def carry(self, model: Model, calls: Calls, execute: Callable[[], list[Any]]) -> list[Any]:
        """A round trip to Redis."""

        def run() -> list[Any]:
            if model.is_away or model.life != life:
                raise redis.ConnectionError("connection reset by peer")
            return execute()

        life = model.life
        # Who has no faults ahead need not know what it is.
        has_faults = self.stack and self.stack[-1].step.faults
        what = _named(calls) if has_faults else ""
        return self._carried(what, run, redis.ConnectionError, redis.TimeoutError, at=model)

    def carry_request(self, what: str, execute: Callable[[], Any]) -> Any:
        """A request to MongoDB."""

        def run() -> Any:
            if self.mongo.is_away:
                raise AutoReconnect("connection refused")
            return execute()

        return self._carried(what, run, AutoReconnect, NetworkTimeout)

    def _carry_elsewhere(self, what: str, execute: Callable[[], Any]) -> Any:
        return self._carried(f"{what} elsewhere", execute, AutoReconnect, NetworkTimeout)

    def _carried(
        self,
        what: str,
        execute: Callable[[], Any],
        lost: type[Exception],
        timed_out: type[Exception],
        *,
        at: RedisModel | None = None,
    ) -> Any:
        if not self.stack:
            return execute()
        now = self.stack[-1]
        self._check_alive(now)
        self.round_trips += 1
        self.seconds += ROUND_TRIP_S
        if self._late:
            self.execute_late()
        if not now.step.faults:
            return execute()
        of = {one.of for one in now.step.faults if one.of in what}
        faults = [one for one in now.step.faults if one.of in of and one.at == now.seen[one.of]]
        now.seen.update(of)
        is_mongo = lost is AutoReconnect
        for fault in faults:
            self._doubt_mongo(is_mongo)
            now.process.waits_at = at
            self._before(now, fault, what, execute, lost, timed_out)
            self._check_alive(now)
        answer = execute()
        for fault in faults:
            self._doubt_mongo(is_mongo)
            self._after(now, fault, what, lost, timed_out)
        return answer

    def _doubt_mongo(self, is_asked: bool) -> None:
        """Whoever gets no answer from MongoDB now does not ask it for a while."""
        if is_asked:
            self.mongo_uncertain_until = self.seconds + ASK_AGAIN_S

    def _check_alive(self, now: Running) -> None:
        if not now.process.is_alive:
            raise Killed

    def _before(
        self,
        now: Running,
        fault: Fault,
        what: str,
        execute: Callable[[], Any],
        lost: type[Exception],
        timed_out: type[Exception],
    ) -> None:
        now.process.waits_for = what
        if fault.kind == "meanwhile":
            assert fault.step is not None
            self.tell(f"{now.process.name} waits for {what}; meanwhile:")
            now.had_trouble = True
            self._act(fault.step)
        elif fault.kind == "stopped" and now.pausable is not None:
            self._stop(now, fault.delay, what)
        now.process.waits_for = ""
        if fault.kind == "killed before":
            self.tell(f"{now.process.name} is killed before {what}")
            self.kill(now.process)
        elif fault.kind == "command lost":
            now.had_trouble = True
            self.tell(f"{what} of {now.process.name} is lost on the way there")
            raise lost("lost on the way there")
        elif fault.kind == "answer late":
            now.had_trouble = True
            self.tell(f"{what} of {now.process.name} is on its way for long; it waits no more")
            due = self.round_trips + fault.delay
            self._late.append(Late(due, f"{what} of {now.process.name}", execute))
            raise timed_out("timed out")

    def _after(
        self,
        now: Running,
        fault: Fault,
        what: str,
        lost: type[Exception],
        timed_out: type[Exception],
    ) -> None:
        if fault.kind == "killed after":
            self.tell(f"{now.process.name} is killed after {what}")
            self.kill(now.process)
            raise Killed
        if fault.kind.startswith("answer lost"):
            now.had_trouble = True
            self.tell(f"{what} of {now.process.name} is executed, and the answer is lost")
            raise (timed_out if fault.kind.endswith("in time") else lost)("the answer was lost")

    def _stop(self, now: Running, steps: int, what: str) -> None:
        """Stop a process, and return when it goes on: others have taken so many steps then."""
        assert now.pausable is not None
        self.tell(f"{now.process.name} is stopped before {what}")
        now.had_trouble = True
        now.process.stopped = now.pausable
        self.stack.pop()
        self._stopped.append((self.steps + steps, now.process))
        self._set_names_here()
        now.pausable.stop()
        now.process.stopped = None
        self.stack.append(now)
        self._set_names_here()
        self._check_alive(now)
        self.tell(f"{now.process.name} goes on")

    def go_on(self, *, all_of_them: bool = False) -> None:
        """Another step of the schedule: who was stopped for so many of them goes on."""
        self.steps += 1
        while due := [one for one in self._stopped if all_of_them or one[0] <= self.steps]:
            self._stopped.remove(due[0])
            _, process = due[0]
            if process.stopped is not None:
                process.stopped.go_on()

    def _set_names_here(self) -> None:
        if self.stack:
            _set_writers_here(self.stack[-1].process.names_here)

    def kill(self, process: Process) -> None:
        """Kill it; what it has begun ends at its next round trip at the latest."""
        for one in self.stack:
            one.had_trouble = True
        self.end(process)
        if process.stopped is not None:  # it notices at once, and lets go of what it holds
            process.stopped.go_on()

    def _kill_in_journal(self, process: Process) -> None:
        self.tell(f"{process.name} is killed in the code of the journal")
        self.kill(process)

    # -- the machine of all processes ---------------------------------------------------------

    def _start_machine(self) -> None:
        self._starts += 1
        (self.directory / "boot_id").write_text(f"start {self._starts}\n")

    def files(self) -> list[Path]:
        """All files of the journals."""
        directory = self.directory / "journal"
        return [directory / name for name in os.listdir(directory)] if directory.exists() else []

    def _journal_files(self) -> list[Path]:
        return sorted(filter(_is_segment, self.files()))

    def write_to_disk(self) -> None:
        """The kernel writes what is in its memory."""
        self._on_disk = {path: path.read_bytes() for path in self._journal_files()}

    def cut_power(self) -> None:
        """All processes end. Of each page of a journal the disk has the newest state, or an older.

        Pages that the kernel has never written are zeros. To be called when all processes are dead.
        """
        for path in self._journal_files():
            now = path.read_bytes()
            on_disk = self._on_disk.get(path, b"").ljust(len(now), b"\0")
            pages = range(0, len(now), PAGE_BYTES)
            left = [
                now[at : at + PAGE_BYTES]
                if self._random.random() < 0.5
                else on_disk[at : at + PAGE_BYTES]
                for at in pages
            ]
            path.write_bytes(b"".join(left))
            self.torn.add(path.name.partition(".")[0])
            self.torn |= {self._opened_by.get(path.name.partition(".")[0], "")}
        self.write_to_disk()
        self._start_machine()

    def is_on_its_way(self, what: str) -> bool:
        """Whether such a command is late."""
        return any(what in one.what for one in self._late)

    @property
    def is_amid_steps(self) -> bool:
        """Whether a process is in the middle of a step."""
        return bool(self.stack or self._stopped)

    def execute_late(self, *, all_of_them: bool = False) -> None:
        """Execute the commands that were on their way for long."""
        due = [one for one in self._late if all_of_them or one.due <= self.round_trips]
        self._late = [one for one in self._late if one not in due]
        for one in due:
            with suppress(redis.RedisError, PyMongoError):  # nobody hears of it
                self.arrives(one.what, one.execute)
                self.tell(f"{one.what} arrives late, and is executed")


class _Stop(StopSignal):
    """A signal that is never given; to wait for it takes simulated time."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        super().__init__()
        self._sleep = sleep

    def wait(self, timeout: float | None = None) -> bool:
        """Let time pass."""
        self._sleep(timeout or 0.0)
        return False


def _set_writers_here(names: set[str]) -> None:
    """From now on the process that runs has these writers."""
    opened.writers_here = connection.writers_here = names


def _is_segment(path: Path) -> bool:
    return path.name[-1].isdigit()


def _close_files(paths: Iterable[Path]) -> None:
    """Close files that a process was just about to keep when it was killed."""
    found = {(one.st_dev, one.st_ino) for one in map(os.stat, paths)}
    for name in os.listdir("/dev/fd") if found else ():
        with suppress(OSError):
            one = os.fstat(int(name))
            if (one.st_dev, one.st_ino) in found:
                os.close(int(name))


class _KilledAt:
    """Kills a process at a line of the journal's code."""

    def __init__(self, line: int, kill: Callable[[], None]) -> None:
        self._left = line
        self._kill = kill

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(_JOURNAL_CODE):
            return None
        if frame.f_code.co_name in _OF_THE_COLLECTOR:
            return None
        if event == "line":
            self._left -= 1
            if not self._left:
                self._kill()
                raise Killed
        return self


class _Listener(logging.Handler):
    """Adds the warnings of the package to the story."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if "no background thread" not in record.msg:
            self._world.tell(f"a warning: {record.getMessage()[:200]}")


@contextmanager
def _replaced(replaced: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """While this lasts, attributes have other values: as `mock.patch`, in a tenth of its time."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    try:
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


@contextmanager
def _told_to(world: World) -> Iterator[None]:
    """What the package logs is a part of the story, and of nothing else."""
    log, listener = logging.getLogger("jamboree_gym"), _Listener(world)
    log.addHandler(listener)
    before, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.propagate = before
        log.removeHandler(listener)


_script_names: dict[str, str] = {}


def _script_name(digest: str) -> str:
    """The name of a script; a test may have replaced one since the last call."""
    if digest not in _script_names:
        found = vars(scripts).items()
        ours = {one.sha: name.lower() for name, one in found if isinstance(one, Script)}
        _script_names.update({digest: "?"} | ours)
    return _script_names[digest]


def _named(calls: Calls) -> str:
    """Calls in words."""
    names = []
    for call in calls:
        name = call[0].decode()
        if name == "EVALSHA":
            name = f"script {_script_name(call[1].decode())!r}"
        if name not in names:
            names.append(name)
    return " and ".join(names[:3])
