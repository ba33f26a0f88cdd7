"""Writers, readers, followers, a deleter, an importer and backups go on while a nemesis kills,
stops, cuts, slows down, fills and empties what they stand on; then their history is checked.

    python tests/faults/nemesis.py --seeds 0-9 --seconds 30
    python tests/faults/nemesis.py --seeds 0-9 --seconds 30 --cluster valkey9

A seed gives the same schedule each time; what the machine makes of it differs. The schedule is
printed as a story if something is wrong, or with `--story`. Who takes part: `clients.py`. What must
hold: `history.py`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "store"))

import psutil
import redis
from clients import Client
from cluster_servers import Cluster
from conftest import REDIS_PROGRAMS, Server
from embedded_home import SUPERVISOR, new_home, processes_of
from full_disk import fill, free, mongo_of_its_own, redis_of_its_own
from history import (
    AFTER_ALL,
    EMPTIED_AFTER_ALL,
    LEASE_S,
    NAMESPACE,
    NODE_TIMEOUT_S,
    PRIMARY,
    Violation,
    violations,
)
from operations import Operation, OperationLog, read_operations
from processes import PATHS, wait_until
from proxy import Lane, Proxy, direct
from redis.crc import key_slot
from warm import start_warm

from jamboree_gym.keys import Keyspace
from jamboree_gym.servers.home import VALKEY_SOCKET
from jamboree_gym.store.redis.buckets import BUCKETS

ENDS_WITHIN_S = 180.0  # a process that has been told to; its last copy takes a while
READS_ALL_WITHIN_S = 600.0  # the last ones: half a second an episode, on a busy machine
WARM_UP_S = 2.0
STOPPED_FOR_LONG_S = LEASE_S + 2
ROOM_BYTES = 20_000  # until a disk is full
FAILOVER_S = NODE_TIMEOUT_S + 2  # until a replica has taken the place of its primary
RANGE = 2  # slots that move together

CLIENT = "import sys; from faults.clients import main; main(sys.argv[1])"
CLIENTS = {
    "buffered": ("single", "buffered"),
    "sync": ("single", "sync"),
    "fsync": ("single", "fsync"),
    "vector": ("vector", "buffered"),
    "vector-sync": ("vector", "sync"),
    "importer": ("importer", "sync"),
    "reader": ("reader", "sync"),
    "other-reader": ("reader", "sync"),
    "follower": ("follower", "sync"),
    "other-follower": ("follower", "sync"),
    "deleter": ("deleter", "sync"),
    "keeper": ("keeper", "sync"),
}
"""Role and write mode of each."""


class Deed(NamedTuple):
    """One bad thing.

    Attributes:
        at_s: When it begins, from the beginning of all.
        what: Which one.
        target: To whom.
        for_s: How long it lasts.
    """

    at_s: float
    what: str
    target: str
    for_s: float

    def __str__(self) -> str:
        return f"{self.at_s:5.1f} s: {self.what} {self.target} for {self.for_s:.1f} s"


def schedule(seed: int, seconds: float, deeds: Sequence[tuple[str, str]]) -> list[Deed]:
    """What a seed does when.

    Args:
        seed: Of all that is drawn.
        seconds: How long it goes on.
        deeds: Pairs of a deed and a target, to choose from.
    """
    chance = random.Random(seed)
    story: list[Deed] = []
    busy_until = dict.fromkeys((target for _, target in deeds), 0.0)
    at_s = WARM_UP_S
    while at_s < seconds:
        what, target = chance.choice(deeds)
        for_s = chance.random() * (0.5 if what == "kill" else 2.0)
        if what == "stop" and target in CLIENTS and chance.random() < 0.3:
            for_s = STOPPED_FOR_LONG_S
        if what in ("kill", "stop") and target == PRIMARY:
            for_s += FAILOVER_S
        if busy_until[target] < at_s:
            story.append(Deed(at_s, what, target, for_s))
            busy_until[target] = at_s + for_s + 0.5
        at_s += chance.random() * 1.5
    return story


def with_clients(of_servers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What may be done to servers, and to the clients."""
    clients = [(what, slot) for slot in CLIENTS for what in ("kill", "stop")]
    return [*of_servers, *of_servers, *clients]


# -- the servers ----------------------------------------------------------------------------------


class Servers:
    """What the nemesis asks of all of them.

    Attributes:
        deeds: What may be done, and to whom.
    """

    deeds: tuple[tuple[str, str], ...]

    def aim(self, target: str) -> list[int] | None:
        """Choose whom the next deed is done to; the buckets that he has, if not all."""
        return None

    def mode(self, write: str) -> str:
        """How a client writes."""
        return write

    def client(self) -> redis.Redis:
        """To Redis itself."""
        raise NotImplementedError

    def empty(self) -> None:
        """Redis has nothing any more."""
        with self.client() as client:
            client.flushall()


class OwnServers(Servers):
    """A Redis, a MongoDB and a backup process, with proxies before the first two.

    Args:
        directory: Where the files go.
        appendfsync: Of Redis.
        exits: Ends them.
    """

    deeds = (
        *(("kill", target) for target in ("redis", "redis", "mongo", "backup")),
        *(("stop", target) for target in ("redis", "mongo", "backup")),
        *((what, target) for target in ("redis", "mongo") for what in ("cut", "hold", "slow")),
        *(("disk", target) for target in ("redis", "mongo")),
        *(("empty", "redis"), ("full", "redis")),
    )

    def __init__(self, directory: Path, appendfsync: str, exits: ExitStack) -> None:
        self.home = directory / "home"
        self.directory, self.exits = directory, exits
        self.folders = {"redis": directory / "redis", "mongo": directory / "mongo"}
        self.servers: dict[str, Server] = {}
        self.proxies: dict[str, Proxy] = {}
        self.redis_url = self.start_redis("--appendfsync", appendfsync)
        self.mongo_url = direct(self._start("mongo", mongo_of_its_own(self.folders["mongo"])))
        self.backup: subprocess.Popen[bytes] | None = None
        self.restart("backup")
        exits.callback(self.stop_backup)

    def start_redis(self, *options: str) -> str:
        """By which URL the clients open it."""
        server = redis_of_its_own("valkey9", self.folders["redis"], *options)
        return self._start("redis", server, self.directory).url

    def _start(
        self, name: str, server: AbstractContextManager[Server], of_socket: Path | None = None
    ) -> Proxy:
        """Start a server; what stands before it."""
        self.servers[name] = self.exits.enter_context(server)
        proxy = self.exits.enter_context(Proxy(self.servers[name].url, of_socket))
        self.proxies[name] = proxy
        return proxy

    def pid(self, target: str) -> int | None:
        """Of a process; None while there is none."""
        process = self.backup if target == "backup" else self.servers[target].process
        return None if process is None or process.poll() is not None else process.pid

    def kill(self, target: str) -> None:
        """As `kill -9` does."""
        process = self.backup if target == "backup" else self.servers[target].process
        if process is not None:
            process.kill()
            process.wait()

    def restart(self, target: str) -> None:
        """Start it, if it does not run."""
        if target != "backup":
            if self.servers[target].process.poll() is not None:
                self.servers[target].start()
        elif self.backup is None or self.backup.poll() is not None:
            command = [sys.executable, "-m", "jamboree_gym.backup", "--follow"]
            command += ["--interval-s", "0.5", "--namespace", NAMESPACE, "--home", str(self.home)]
            command += ["--redis-url", self.redis_url, "--mongo-url", self.mongo_url]
            with (self.directory / "backup.errors").open("ab") as errors:
                self.backup = subprocess.Popen(command, env=_environment(), stderr=errors)

    def stop_backup(self) -> None:
        """Have it copy for the last time."""
        if self.backup is not None:
            self.backup.terminate()
            self.backup.wait()

    def make_well(self) -> None:
        """Start what has ended by itself, the backup process where Redis was away, for example."""
        for target in (*self.servers, "backup"):
            self.restart(target)

    def client(self) -> redis.Redis:
        """To Redis itself."""
        return redis.Redis.from_url(self.servers["redis"].url)

    @contextmanager
    def full(self, _: str) -> Iterator[None]:
        """Redis has no more memory."""
        with self.client() as client:
            used: Any = client.info("memory")
            client.config_set("maxmemory", used["used_memory"])
            yield
            client.config_set("maxmemory", 0)

    @contextmanager
    def disk(self, target: str) -> Iterator[None]:
        """A server has no more disk."""
        fill(self.servers[target], self.folders[target], room=ROOM_BYTES)
        yield
        with suppress(psutil.NoSuchProcess):
            free(self.servers[target])
        self.restart(target)

    @contextmanager
    def cut(self, target: str) -> Iterator[None]:
        """All connections are cut, those of an append in the middle of it."""
        proxy = self.proxies[target]
        proxy.up.cut_after(100)
        yield
        proxy.up.forget_cut()
        proxy.cut("rst" if target == "mongo" else "fin")

    @contextmanager
    def hold(self, target: str) -> Iterator[None]:
        """Nothing arrives."""
        self.proxies[target].hold()
        yield
        self.proxies[target].release()

    @contextmanager
    def slow(self, target: str) -> Iterator[None]:
        """All comes late."""
        lanes: tuple[Lane, ...] = (self.proxies[target].up, self.proxies[target].down)
        for lane in lanes:
            lane.latency_s = 0.1
        yield
        for lane in lanes:
            lane.latency_s = 0.0


class ClusterServers(OwnServers):
    """Three primaries with a replica each, a MongoDB and a backup process.

    One primary at a time has a bad time: two of three have to choose who takes its place.

    Args:
        directory: Where the files go.
        program: Of the cluster.
        chance: Draws which primary and which slots.
        exits: Ends them.
    """

    deeds = (
        *(("kill", PRIMARY),) * 4,
        ("stop", PRIMARY),
        *(("reshard", PRIMARY), ("migrate", PRIMARY)),
        *(deed for deed in OwnServers.deeds if deed[1] != "redis"),
    )

    def __init__(
        self, directory: Path, program: str, chance: random.Random, exits: ExitStack
    ) -> None:
        if program != "valkey9":  # the others move slots key by key only
            self.deeds = tuple((what.replace("migrate", "reshard"), to) for what, to in self.deeds)
        self.program, self.chance = program, chance
        self.slots = [key_slot(one.tag.encode()) for one in Keyspace(NAMESPACE).buckets(BUCKETS)]
        self.primary = self.replica = ""
        super().__init__(directory, "everysec", exits)

    def start_redis(self, *options: str) -> str:
        """By which URL the clients open it."""
        self.cluster = Cluster(
            self.directory / "cluster",
            node_timeout_ms=int(NODE_TIMEOUT_S * 1000),
            program=REDIS_PROGRAMS[self.program](),
            options=options,
        )
        self.exits.callback(self.cluster.stop)
        self.primaries = self.cluster.primaries()
        return self.cluster.url()

    def mode(self, write: str) -> str:
        """How a client writes: Redis 7.0 has no WAITAOF."""
        return "sync" if write == "fsync" and self.program == "redis7" else write

    def aim(self, target: str) -> list[int] | None:
        """Choose a primary that has buckets, once all is well; which these are."""
        if target != PRIMARY:
            return None
        self.check()
        owners = [self.cluster.owner_of(slot) for slot in self.slots]
        self.primary = self.chance.choice(sorted(set(owners)))
        self.replica = self.cluster.replica_of(self.primary)
        return [bucket for bucket, owner in enumerate(owners) if owner == self.primary]

    def check(self) -> None:
        """Wait until all are well.

        Raises:
            RuntimeError: They are not, or a replica has taken over without a deed: on a machine
                that is too busy, primaries seem to be away.
        """
        self._wait_until(self.cluster.is_well)
        before, self.primaries = self.primaries, self.cluster.primaries()
        if gone := {*before} - {*self.primaries, self.primary}:
            raise RuntimeError(f"{gone} were replaced, and nothing was done to them")
        if any(map(self.cluster.open_slots, self.primaries)):
            raise RuntimeError("some slots have been left half moved")

    def _wait_until(self, condition: Callable[[], object]) -> None:
        try:
            wait_until(condition)
        except TimeoutError as error:
            raise RuntimeError(f"the cluster is not well: {error}") from error

    def make_well(self) -> None:
        """Start what has ended by itself, and wait for the rest."""
        super().make_well()
        self.check()

    def pid(self, target: str) -> int | None:
        """Of a process; None while there is none."""
        if target != PRIMARY:
            return super().pid(target)
        return self.cluster.servers[self.primary].process.pid

    def kill(self, target: str) -> None:
        """As `kill -9` does."""
        if target != PRIMARY:
            super().kill(target)
        else:
            self.cluster.servers[self.primary].kill()

    def restart(self, target: str) -> None:
        """Start it, if it does not run; a primary once another one has taken its place."""
        if target != PRIMARY:
            super().restart(target)
        else:
            self._wait_until(lambda: self.cluster.is_primary(self.replica))
            self.cluster.servers[self.primary].start()

    def empty(self) -> None:
        """None of them has anything any more."""
        self.check()
        for address in self.primaries:
            with self.cluster.admin(address) as client:
                client.flushall()

    @contextmanager
    def reshard(self, _: str) -> Iterator[None]:
        """Slots move key by key; for a while, half of the keys have moved."""
        ranges, to = self._ranges()
        slots = [slot for first, last in ranges for slot in range(first, last + 1)]
        for slot in slots:
            self.cluster.begin_to_move(slot, to)
            count = self.cluster.tell(self.primary, "COUNTKEYSINSLOT", slot)
            self.cluster.move_keys(slot, to, most=count // 2)
        yield
        for slot in slots:
            while self.cluster.move_keys(slot, to, most=100):
                pass
            self.cluster.end_move(slot, to)

    @contextmanager
    def migrate(self, _: str) -> Iterator[None]:
        """Slots move at once."""
        ranges, to = self._ranges()
        for first, last in ranges:
            words = ("MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", self.cluster.id_of(to))
            self.cluster.tell(self.primary, *words)
        yield
        for first, _last in ranges:
            self._wait_until(lambda first=first: self.cluster.owner_of(first) == to)

    def _ranges(self) -> tuple[list[tuple[int, int]], str]:
        """First and last slot of ranges that a primary has, and where they may move."""
        own = [slot for slot in self.slots if self.cluster.owner_of(slot) == self.primary]
        some = self.chance.sample(own, (len(own) + 1) // 2)
        firsts = sorted({slot // RANGE * RANGE for slot in some})
        to = self.chance.choice([one for one in self.primaries if one != self.primary])
        return [(first, first + RANGE - 1) for first in firsts], to


class EmbeddedServers(Servers):
    """The servers of a home, which start and restart by themselves."""

    deeds = (
        *(("kill", target) for target in ("supervisor", "redis", "redis", "mongo", "backup")),
        *(("stop", target) for target in ("supervisor", "redis", "mongo", "backup")),
        ("empty", "redis"),
    )
    redis_url = mongo_url = None
    marks = {  # noqa: RUF012 - what is in the command lines
        "supervisor": SUPERVISOR,
        "redis": "valkey",
        "mongo": "secantus",
        "backup": "jamboree_gym.backup",
    }

    def __init__(self, exits: ExitStack) -> None:
        self.home = exits.enter_context(new_home())

    def pid(self, target: str) -> int | None:
        """Of a process; None while there is none."""
        mark = self.marks[target]
        for process in processes_of(self.home):
            with suppress(psutil.Error):
                if any(mark in part for part in process.cmdline()):
                    return process.pid
        return None

    def kill(self, target: str) -> None:
        """As `kill -9` does."""
        if (pid := self.pid(target)) is not None:
            os.kill(pid, signal.SIGKILL)

    def restart(self, target: str) -> None:
        """It does so by itself."""

    def make_well(self) -> None:
        """It does so by itself."""

    def client(self) -> redis.Redis:
        """To Redis itself."""
        return redis.Redis.from_url(f"unix://{self.home / VALKEY_SOCKET}")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([*PATHS, str(Path(__file__).parent)])}


# -- all who take part ----------------------------------------------------------------------------


@dataclass
class World:
    """Servers, clients, and the nemesis.

    Args:
        servers: Of one kind or the other.
        directory: For the logs.
        appendfsync: Of Redis.
    """

    servers: Any
    directory: Path
    appendfsync: str
    clients: dict[str, Any] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.log = OperationLog(self.directory / "nemesis.log", Exception)
        self.log.note("setup", "redis", None, self.appendfsync)

    def start(self, slot: str, role: str = "", mode: str = "") -> str:
        """Start a client; its name, which is new."""
        self.counts[slot] += 1
        name = f"{slot}-{self.counts[slot]}" if slot in CLIENTS else slot
        client = Client(
            *(CLIENTS.get(slot) or (role, mode))[:1],
            name,
            self.servers.mode((CLIENTS.get(slot) or (role, mode))[1]),
            self.servers.redis_url,
            self.servers.mongo_url,
            str(self.servers.home),
            str(self.directory),
        )
        self.clients[name] = start_warm(CLIENT, json.dumps(asdict(client)))
        return name

    def newest(self, slot: str) -> str:
        """Name of the client that has a slot now."""
        return f"{slot}-{self.counts[slot]}" if slot in CLIENTS else slot

    def pid(self, target: str) -> int | None:
        """Of a client or a server."""
        if target in self.clients:
            return self.clients[target].pid if self.clients[target].poll() is None else None
        found: int | None = self.servers.pid(target)
        return found

    def is_under_way(self) -> bool:
        """Whether each client has noted something."""
        logs = [self.directory / f"{name}.log" for name in self.clients]
        return all(log.exists() and log.stat().st_size for log in logs)

    # -- deeds ------------------------------------------------------------------------------

    def begin(self, deed: Deed) -> Callable[[], object]:
        """Begin a deed; returns what ends it."""
        target = self.newest(deed.target)
        exits = ExitStack()
        aimed_at = self.servers.aim(deed.target)
        call = exits.enter_context(self.log.call(deed.what, target, aimed_at))
        try:
            if hasattr(self, f"_{deed.what}"):
                deed_in_progress = getattr(self, f"_{deed.what}")(deed.target, target)
            else:
                deed_in_progress = getattr(self.servers, deed.what)(target)
            call.result = exits.enter_context(deed_in_progress) is not False
        except (OSError, psutil.Error, redis.RedisError, ValueError):
            call.result = False  # it was away already
        return exits.close

    @contextmanager
    def _kill(self, slot: str, target: str) -> Iterator[bool]:
        is_there = self.pid(target) is not None
        if slot in CLIENTS:
            self.clients[target].kill()
            self.clients[target].communicate()
            yield is_there
            self.start(slot)
        else:
            self.servers.kill(target)
            yield is_there
            self.servers.restart(target)

    @contextmanager
    def _stop(self, _: str, target: str) -> Iterator[bool]:
        pid = self.pid(target)
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
        yield pid is not None
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def _empty(self, _: str, target: str) -> Iterator[None]:
        self.servers.empty()
        yield

    def run(self, story: Sequence[Deed]) -> None:
        """Do all of it. The clock of the story stands while a deed is begun or ended."""
        begun = time.monotonic()
        agenda: list[tuple[float, int, Any]] = [
            (deed.at_s, number, deed) for number, deed in enumerate(story)
        ]
        number = len(agenda)
        heapq.heapify(agenda)
        while agenda:
            at_s, _, what = heapq.heappop(agenda)
            time.sleep(max(0.0, begun + at_s - time.monotonic()))
            stood_at = time.monotonic()
            if isinstance(what, Deed):
                number += 1
                heapq.heappush(agenda, (at_s + what.for_s, number, self.begin(what)))
            else:
                what()
            begun += time.monotonic() - stood_at

    # -- the end ----------------------------------------------------------------------------

    def end(self) -> None:
        """Have all clients end, and the last ones look at what is left."""
        self.servers.make_well()
        (self.directory / "stop").touch()
        told = time.monotonic()
        for name, process in self.clients.items():
            self._wait(name, process, told + ENDS_WITHIN_S)
        for name in (AFTER_ALL, EMPTIED_AFTER_ALL):
            self.start(name, "last", "buffered")
            self._wait(name, self.clients[name], time.monotonic() + READS_ALL_WITHIN_S)
            if name == AFTER_ALL:
                self.begin(Deed(0.0, "empty", "redis", 0.0))()

    def _wait(self, name: str, process: Any, until: float) -> None:
        try:
            code = process.wait(timeout=max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            process.wait()
            code = None
        process.communicate()
        if (code and code != -signal.SIGKILL) or code is None:
            words = (self.directory / f"{name}.errors").read_text()[-1500:]
            self.log.note("crash", name, words if code else f"it did not end: {words}")

    def kill_all(self) -> None:
        """For a run that is broken off."""
        for process in self.clients.values():
            process.kill()
            process.communicate()

    def operations(self) -> list[Operation]:
        """Of all processes."""
        paths = sorted(self.directory.glob("*.log"))
        return [one for path in paths for one in read_operations(path)]


@dataclass(frozen=True)
class Outcome:
    """What came of a seed."""

    seed: int
    kind: str
    story: Sequence[Deed]
    operations: Sequence[Operation]
    violations: Sequence[Violation]

    @property
    def done(self) -> Counter[str]:
        """How often the nemesis has done what, and to whom; without what had no effect."""
        deeds = [one for one in self.operations if one.process == "nemesis" and one.result is True]
        return Counter(f"{one.action} {one.what.rstrip('-0123456789')}" for one in deeds)

    def __str__(self) -> str:
        counts = Counter(one.action for one in self.operations)
        errors = Counter(one.error for one in self.operations if one.error)
        lines = [f"seed {self.seed}, {self.kind}: {len(self.operations)} operations"]
        lines += [f"  {_counted(counts)}", f"  errors: {_counted(errors) or 'none'}"]
        lines += [f"  nemesis: {_counted(self.done)}"]
        lines += [f"  {rule}: {words}" for rule, words in self.violations[:12]]
        return "\n".join([*lines, f"  {len(self.violations)} violations"])


def check_servers_are_back(operations: Sequence[Operation]) -> None:
    """A server that the nemesis could not start again says nothing of the package.

    Raises:
        RuntimeError: One of them did not answer.
    """
    for one in operations:
        if one.process == "nemesis" and one.error == "RuntimeError":
            raise RuntimeError(one.words)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


@dataclass
class Sums:
    """What came of several seeds together.

    Attributes:
        seeds: How many.
        wrong: Those with violations.
        broken_off: Those that did not come to their end.
        operations: Of all clients and the nemesis.
        done: What the nemesis has done, and to whom.
    """

    seeds: int = 0
    wrong: list[int] = field(default_factory=list)
    broken_off: list[int] = field(default_factory=list)
    operations: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.seeds += 1
        self.wrong += [outcome.seed] if outcome.violations else []
        self.operations += len(outcome.operations)
        self.done += outcome.done

    def __str__(self) -> str:
        deeds = Counter[str]()
        for name, count in self.done.items():
            deeds[name.partition(" ")[0]] += count
        wrong, broken_off = (
            ", ".join(map(str, seeds)) or "none" for seeds in (self.wrong, self.broken_off)
        )
        return "\n".join(
            [
                f"{self.seeds} seeds, {self.operations:,} operations: {_counted(deeds)}",
                f"  to whom: {_counted(self.done)}",
                f"  seeds with violations: {wrong}; broken off: {broken_off}",
            ]
        )


def run(seed: int, seconds: float, keep: Path | None = None, cluster: str = "") -> Outcome:
    """One history.

    Args:
        seed: Of the schedule. An even one has servers of its own, every third one embedded ones.
        seconds: How long the nemesis goes on.
        keep: Where the logs are copied to.
        cluster: The program of a cluster, on which all seeds are then.
    """
    is_embedded = seed % 3 == 2 and not cluster
    appendfsync = "everysec" if is_embedded else ("always", "everysec")[seed % 2]
    with ExitStack() as exits:
        name = exits.enter_context(tempfile.TemporaryDirectory(prefix="jg-", dir="/tmp"))
        logs = Path(name) / "logs"
        logs.mkdir()
        kind = f"own servers, appendfsync {appendfsync}"
        if cluster:
            kind = f"a cluster of {cluster}"
            servers: Servers = ClusterServers(Path(name), cluster, random.Random(seed), exits)
        elif is_embedded:
            kind = "embedded servers"
            servers = EmbeddedServers(exits)
        else:
            servers = OwnServers(Path(name), appendfsync, exits)
        story = schedule(seed, seconds, with_clients(servers.deeds))
        world = World(servers, logs, appendfsync)
        exits.callback(world.kill_all)
        for slot in CLIENTS:
            world.start(slot)
        wait_until(world.is_under_way)
        world.run(story)
        world.end()
        operations = world.operations()
        if keep is not None:
            shutil.copytree(name, keep / f"seed-{seed}", ignore=shutil.ignore_patterns("*.sock"))
        check_servers_are_back(operations)
        return Outcome(seed, kind, story, operations, violations(operations))


def main() -> int:
    """Run some, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each")
    parser.add_argument("--story", action="store_true", help="print the schedule of each")
    parser.add_argument("--keep", type=Path, help="a directory for what all have noted")
    parser.add_argument(
        "--cluster", default="", choices=[*REDIS_PROGRAMS], help="on a cluster of this program"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it has started ends with it
    first, _, last = options.seeds.partition("-")
    os.environ["JAMBOREE_WARM"] = "faults.clients"
    sums = Sums()
    seeds = range(int(first), int(last or first) + 1)
    for seed in seeds:
        try:
            outcome = run(seed, options.seconds, options.keep, options.cluster)
        except (RuntimeError, TimeoutError, redis.RedisError) as error:
            # A server did not come back: nothing can be said.
            print(f"seed {seed} was broken off: {error}", flush=True)
            sums.broken_off.append(seed)
            continue
        if outcome.violations or options.story:
            print(*outcome.story, sep="\n")
        print(outcome, flush=True)
        sums.add(outcome)
    print(sums)
    return bool(sums.wrong or sums.broken_off)


if __name__ == "__main__":
    sys.exit(main())
