"""Embedded servers: joined, shared, left, and closed to everybody else."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis
from embedded_home import (
    PATIENCE_S,
    SUPERVISOR,
    is_gone,
    kill,
    new_home,
    processes_of,
    restarted,
    run_client,
    shorten,
    start_client,
    use_before,
    wait_until,
)
from processes import NoteHandler
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.server_api import ServerApi
from warm import run_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import JamboreeClosed
from jamboree_gym.servers.embedded import (
    EmbeddedServers,
    default_home,
    server_status,
    stop_servers,
)
from jamboree_gym.wording import mask_password


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "20")
    with new_home() as made:
        yield made


@pytest.fixture
def used_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose Mongo has run before, and starts the sooner."""
    return use_before(home, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Both servers, for tests that only look."""
    with new_home() as home:
        use_before(home, tmp_path_factory.getbasetemp())
        with EmbeddedServers.join(home) as servers:
            servers.mongo_url()
            yield servers


def test_join_starts_valkey_and_not_mongo(home: Path) -> None:
    with EmbeddedServers.join(home) as servers, redis.Redis.from_url(servers.redis_url) as client:
        assert client.ping()
        status = servers.status()
    assert status.running
    assert status.redis_pid is not None
    assert status.mongo_pid is None


@pytest.mark.long  # another test has odd characters
def test_a_home_whose_name_is_no_valid_unicode_has_both_servers(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    odd = Path(os.fsdecode(os.fsencode(home) + b"-caf\xe9 # it's"))
    use_before(odd, tmp_path_factory.getbasetemp())
    try:
        with (
            EmbeddedServers.join(odd) as servers,
            Jamboree(servers.redis_url, servers.mongo_url(), backup=False) as jam,
        ):
            NoteHandler(jam, "n").save({"n": 1})
            assert jam.backup.flush() > 0
    finally:
        stop_servers(odd)


def test_second_process_joins_the_servers_of_the_first(home: Path) -> None:
    with EmbeddedServers.join(home) as servers, start_client(home) as second:
        assert second.stdout is not None
        theirs = json.loads(second.stdout.readline())
        status = servers.status()
        second.communicate("")
    assert theirs == [status.supervisor_pid, status.redis_pid]
    assert status.clients == 2


def test_processes_that_start_at_once_get_one_supervisor(home: Path) -> None:
    clients = [start_client(home) for _ in range(3)]
    try:
        joined = {client.stdout.readline() for client in clients if client.stdout is not None}
        assert len(joined) == 1
        assert len(processes_of(home)) == 2  # one supervisor, one Valkey
    finally:
        for client in clients:
            client.communicate("")


def test_threads_that_start_at_once_get_one_supervisor(home: Path) -> None:
    joined: list[EmbeddedServers] = []
    threads = [
        threading.Thread(target=lambda: joined.append(EmbeddedServers.join(home))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert server_status(home).clients == 6
    assert len(processes_of(home)) == 2
    for servers in joined:
        servers.close()


def test_killed_client_is_noticed_and_the_supervisor_idles_out(home: Path) -> None:
    with start_client(home, JAMBOREE_IDLE_EXIT_S="0.5") as client:
        assert client.stdout is not None
        supervisor_pid, redis_pid = json.loads(client.stdout.readline())
        client.kill()
    wait_until(lambda: server_status(home).clients == 0)
    assert not is_gone(supervisor_pid)
    wait_until(lambda: is_gone(supervisor_pid))
    assert is_gone(redis_pid)
    pid = client.pid if sys.platform == "linux" else 0
    assert f"client {pid} has left" in (home / "supervisor.log").read_text()


def test_interrupt_of_the_first_client_leaves_the_servers_alone(home: Path) -> None:
    """Ctrl-C reaches the whole process group of the terminal."""
    with start_client(home, prefix=["setsid"]) as client, EmbeddedServers.join(home) as servers:
        assert client.stdout is not None
        client.stdout.readline()
        os.killpg(client.pid, 2)
        client.wait(PATIENCE_S)
        wait_until(lambda: servers.status().clients == 1)
        with redis.Redis.from_url(servers.redis_url) as ours:
            assert ours.ping()


@pytest.mark.long
def test_data_is_there_after_an_idle_exit(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "0")
    with EmbeddedServers.join(used_home) as servers:
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("kept", "yes")
        with MongoClient(servers.mongo_url()) as mongo:
            mongo.test.kept.insert_one({"kept": "yes"})
            url_before = servers.mongo_url()
    wait_until(lambda: not processes_of(used_home))
    with EmbeddedServers.join(used_home) as servers:
        assert servers.mongo_url() == url_before
        with redis.Redis.from_url(servers.redis_url, decode_responses=True) as client:
            assert client.get("kept") == "yes"
        with MongoClient(servers.mongo_url()) as mongo:
            assert mongo.test.kept.count_documents({"kept": "yes"}) == 1


def test_told_to_stay_they_outlive_their_idle_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "0.05")
    with EmbeddedServers.join(home) as servers:
        servers.stay()
        pid = servers.status().supervisor_pid
    idle_times_over = time.monotonic() + 0.5
    while time.monotonic() < idle_times_over:
        assert server_status(home).supervisor_pid == pid
    assert stop_servers(home)
    wait_until(lambda: not processes_of(home))


def test_ensure_after_down_brings_both_back_where_they_were(used_home: Path) -> None:
    with EmbeddedServers.join(used_home) as servers:
        urls = servers.redis_url, servers.mongo_url()
        assert stop_servers(used_home)
        assert not stop_servers(used_home)
        servers.ensure()
        assert urls == (servers.redis_url, servers.mongo_url())
        with MongoClient(urls[1]) as mongo:
            assert mongo.admin.command("ping")["ok"]


def test_ensure_from_many_threads_holds_one_connection(home: Path) -> None:
    with EmbeddedServers.join(home) as servers:
        threads = [threading.Thread(target=servers.ensure) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert servers.status().clients == 1


def test_close_twice_is_quiet_and_use_after_it_is_not(home: Path) -> None:
    servers = EmbeddedServers.join(home)
    servers.close()
    servers.close()
    with pytest.raises(JamboreeClosed, match="join them again"):
        servers.ensure()
    with pytest.raises(JamboreeClosed):
        servers.mongo_url()


def test_forked_children_leave_the_parent_joined_and_get_connections_of_their_own(
    home: Path,
) -> None:
    printed = run_client(
        home,
        """
servers = EmbeddedServers.join(home)
if (child := os.fork()) == 0:
    servers.close()
    os._exit(0)
os.waitpid(child, 0)
print(servers.status().clients, servers._control.ask("redis", timeout_s=5)["ok"], flush=True)
if (child := os.fork()) == 0:
    servers.ensure()
    print(servers.status().clients, flush=True)
    os._exit(0)
os.waitpid(child, 0)
""",
    )
    assert printed.splitlines() == ["1 True", "2"]


def test_status_and_down_start_nothing(home: Path) -> None:
    assert not server_status(home).running
    assert not stop_servers(home)
    assert not home.exists()


def test_only_the_owner_can_read_a_home_that_was_a_directory_of_everybody(
    home: Path, both: EmbeddedServers
) -> None:
    home.mkdir(mode=0o755)
    EmbeddedServers.join(home).close()
    for closed in (home, both.status().home):
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        for path in closed.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_mongo_refuses_who_has_no_password(both: EmbeddedServers) -> None:
    where = urlsplit(both.mongo_url())
    with MongoClient(f"mongodb://127.0.0.1:{where.port}/?directConnection=true") as anonymous:
        for attempt in (
            lambda: anonymous.test.steps.find_one(),
            lambda: anonymous.test.steps.insert_one({}),
            lambda: anonymous.list_database_names(),
            lambda: anonymous.admin.command("createUser", "eve", pwd="x", roles=["root"]),
        ):
            with pytest.raises(OperationFailure, match="requires authentication"):
                attempt()
    wrong = f"mongodb://jamboree:pw@127.0.0.1:{where.port}/?directConnection=true"
    with MongoClient(wrong) as guess, pytest.raises(OperationFailure, match=r"(?i)auth"):
        guess.admin.command("ping")


def test_mongo_lets_us_in_by_the_stable_api(both: EmbeddedServers) -> None:
    api = ServerApi("1", strict=True)
    with MongoClient(both.mongo_url(), server_api=api) as mongo:
        mongo.test.steps.insert_one({"reward": 1.0})
        assert mongo.test.steps.find_one({}, {"_id": 0}) == {"reward": 1.0}
    with MongoClient(both.mongo_url()) as mongo:
        users = mongo.admin.command("usersInfo")["users"]
    assert [user["user"] for user in users] == ["jamboree"]


def test_password_is_not_shown(both: EmbeddedServers) -> None:
    url = both.mongo_url()
    password = urlsplit(url).password
    assert password is not None
    assert password not in repr(both)
    assert password not in mask_password(url)
    assert password not in repr(both.status())
    logs = list(both.status().home.glob("*.log"))
    assert len(logs) == 3
    for log in logs:
        assert password not in log.read_text()


def test_home_too_deep_for_sockets_has_them_elsewhere(home: Path) -> None:
    deep = home / ("deep" * 15) / ("er # it's" * 8)
    with EmbeddedServers.join(deep) as servers:
        socket_dir = Path(unquote(urlsplit(servers.redis_url).path)).parent
        assert socket_dir != deep
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.set("a", "b")
    assert stop_servers(deep)
    assert not socket_dir.exists()


def test_home_with_odd_characters(home: Path) -> None:
    odd = home.parent / 'a home #1 100% "it\'s" ünïcode'
    with EmbeddedServers.join(odd) as servers:
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.ping()
        supervisor_pid = servers.status().supervisor_pid
    assert stop_servers(odd)
    wait_until(lambda: is_gone(supervisor_pid))


def test_default_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAMBOREE_HOME", "/somewhere/else")
    assert default_home() == Path("/somewhere/else")
    monkeypatch.delenv("JAMBOREE_HOME")
    assert default_home().name == "jamboree-gym"


def test_supervisor_leaves_when_its_home_is_deleted(
    used_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = "jamboree_gym.servers.supervisor"
    shorten(monkeypatch, tmp_path, SUPERVISOR, supervisor, HOME_CHECK_INTERVAL_S=0.05)
    with EmbeddedServers.join(used_home) as servers:
        servers.mongo_url()
        status = servers.status()
        used_home.rename(used_home.with_name("gone"))
        for pid in (status.supervisor_pid, status.redis_pid, status.mongo_pid):
            wait_until(lambda pid=pid: is_gone(pid))  # type: ignore[misc]


def test_servers_of_two_homes_do_not_meet_though_both_had_the_same_port(
    used_home: Path, both: EmbeddedServers
) -> None:
    taken = urlsplit(both.mongo_url()).port
    access = json.loads((used_home / "mongo.json").read_text())
    (used_home / "mongo.json").write_text(json.dumps(access | {"port": taken}))
    with EmbeddedServers.join(used_home) as servers:
        url = servers.mongo_url()
        assert urlsplit(url).port != taken
        with MongoClient(url) as mongo:
            assert mongo.admin.command("ping")["ok"]
        kill(servers.status().redis_pid)
        restarted(servers, redis=1)
        assert both.status().redis_restarts == 0


MANY_FILES = """
import os, resource, sys
import gymnasium as gym
from jamboree_gym import Jamboree

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
with Jamboree(home=sys.argv[1], backup=True, backup_interval_s=0.1) as jam:
    with jam.record(gym.make("CartPole-v1"), run="many") as env:
        env.reset(seed=1)
        env.step(0)
        episode = jam.episode(env.episode_id)
    jam.backup.flush()
    print(len(episode), max(kept) > 1_023, jam.backup.status().pending_records)
"""


def test_a_process_with_more_than_a_thousand_open_files_starts_servers_and_records(
    home: Path,
) -> None:
    ended = run_warm(MANY_FILES, home)
    assert (ended.stdout, ended.returncode) == ("1 True 0\n", 0), ended.stderr
