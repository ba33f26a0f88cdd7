"""Writers, readers, followers, a deleter, an importer and backups go on while a nemesis kills,
stops, cuts, slows down, fills and empties what they stand on; then their history is checked.

    python tests/faults/nemesis.py --seeds 0-9 --seconds 30

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
from conftest import Server
from embedded_home import SUPERVISOR, new_home, processes_of
from full_disk import fill, free, mongo_of_its_own, redis_of_its_own
from history import AFTER_ALL, EMPTIED_AFTER_ALL, LEASE_S, Violation, violations
from operations import Operation, OperationLog, read_operations
from processes import PATHS, wait_until
from proxy import Lane, Proxy, direct
from warm import start_warm

from jamboree_gym.servers.home import VALKEY_SOCKET

ENDS_WITHIN_S = 180.0  # a process that has been told to; its last copy takes a while
READS_ALL_WITHIN_S = 600.0  # the last ones: half a second an episode, on a busy machine
WARM_UP_S = 2.0
STOPPED_FOR_LONG_S = LEASE_S + 2
ROOM_BYTES = 20_000  # until a disk is full

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
        if busy_until[target] < at_s:
            story.append(Deed(at_s, what, target, for_s))
            busy_until[target] = at_s + for_s + 0.5
        at_s += chance.random() * 1.5
    return story


# -- the servers ----------------------------------------------------------------------------------


class OwnServers:
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
        options = ("--appendfsync", appendfsync)
        servers: dict[str, AbstractContextManager[Server]] = {
            "redis": redis_of_its_own("valkey9", self.folders["redis"], *options),
            "mongo": mongo_of_its_own(self.folders["mongo"]),
        }
        self.servers = {name: exits.enter_context(server) for name, server in servers.items()}
        self.proxies = {
            "redis": exits.enter_context(Proxy(self.servers["redis"].url, directory)),
            "mongo": exits.enter_context(Proxy(self.servers["mongo"].url)),
        }
        self.redis_url, self.mongo_url = self.proxies["redis"].url, direct(self.proxies["mongo"])
        self.backup: subprocess.Popen[bytes] | None = None
        self.restart("backup")
        exits.callback(self.stop_backup)

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
            command += ["--interval-s", "0.5", "--namespace", "history", "--home", str(self.home)]
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


class EmbeddedServers:
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
            (CLIENTS.get(slot) or (role, mode))[1],
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
        call = exits.enter_context(self.log.call(deed.what, target))
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
        with self.servers.client() as client:
            client.flushall()
        yield

    def run(self, story: Sequence[Deed]) -> None:
        """Do all of it."""
        begun = time.monotonic()
        agenda: list[tuple[float, int, Any]] = [
            (deed.at_s, number, deed) for number, deed in enumerate(story)
        ]
        number = len(agenda)
        heapq.heapify(agenda)
        while agenda:
            at_s, _, what = heapq.heappop(agenda)
            time.sleep(max(0.0, begun + at_s - time.monotonic()))
            if isinstance(what, Deed):
                number += 1
                heapq.heappush(agenda, (at_s + what.for_s, number, self.begin(what)))
            else:
                what()

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


def run(seed: int, seconds: float, keep: Path | None = None) -> Outcome:
    """One history.

    Args:
        seed: Of the schedule. An even one has servers of its own, every third one embedded ones.
        seconds: How long the nemesis goes on.
        keep: Where the logs are copied to.
    """
    is_embedded = seed % 3 == 2
    appendfsync = "everysec" if is_embedded else ("always", "everysec")[seed % 2]
    with ExitStack() as exits:
        name = exits.enter_context(tempfile.TemporaryDirectory(prefix="jg-", dir="/tmp"))
        logs = Path(name) / "logs"
        logs.mkdir()
        if is_embedded:
            servers: Any = EmbeddedServers(exits)
        else:
            servers = OwnServers(Path(name), appendfsync, exits)
        clients = [(what, slot) for slot in CLIENTS for what in ("kill", "stop")]
        story = schedule(seed, seconds, [*servers.deeds * 2, *clients])
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
        kind = "embedded servers" if is_embedded else f"own servers, appendfsync {appendfsync}"
        return Outcome(seed, kind, story, operations, violations(operations))


def main() -> int:
    """Run some, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each")
    parser.add_argument("--story", action="store_true", help="print the schedule of each")
    parser.add_argument("--keep", type=Path, help="a directory for what all have noted")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it has started ends with it
    first, _, last = options.seeds.partition("-")
    os.environ["JAMBOREE_WARM"] = "faults.clients"
    sums = Sums()
    seeds = range(int(first), int(last or first) + 1)
    for seed in seeds:
        try:
            outcome = run(seed, options.seconds, options.keep)
        except RuntimeError as error:  # a server did not come back: nothing can be said
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
