"""The embedded servers' backup process: it comes by itself, comes back, and goes with them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from backed_up import Load, check_that_all_is_kept_once, is_complete
from conftest import Server
from embedded_home import (
    SUPERVISOR,
    is_gone,
    kill,
    new_home,
    processes_of,
    shorten,
    use_before,
    wait_until,
)
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play
from warm import run_warm, start_warm

from jamboree_gym import Jamboree
from jamboree_gym.backup import follow
from jamboree_gym.backup.automatic import SupervisorsBackup
from jamboree_gym.delivery import pacing
from jamboree_gym.servers.embedded import EmbeddedServers, server_status, stop_servers
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.programs.mongo import MongoProgram

pytestmark = pytest.mark.usefixtures("prompt_writer")

BACKUP = "jamboree_gym.backup.embedded"  # is in its command line
BACKUP_PROCESS = "jamboree_gym.servers.backup_process"
MONGO_CLIENT = "jamboree_gym.store.mongo.client"
CLIENT = """
import os, sys, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from processes import NoteHandler
from jamboree_gym import Jamboree
from jamboree_gym.servers.embedded import server_status, stop_servers
home = sys.argv[1]
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "30")
    with new_home() as made:
        yield made


@pytest.fixture
def used_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose Mongo has run before, and starts the sooner."""
    return use_before(home, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def busy_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose backup runs; each test that shares it records in a namespace of its own.

    A server of it may be killed: it comes back.
    """
    timeouts = {"CONNECT_TIMEOUT_S": 1.0, "ONE_TRY_TIMEOUT_S": 0.75}
    with new_home() as home, pytest.MonkeyPatch.context() as patch:
        use_before(home, tmp_path_factory.getbasetemp())
        patch.setattr(f"{MONGO_CLIENT}.CONNECT_TIMEOUT_S", 1.0)  # our own client has an end, too
        patch.setattr(pacing, "LEISURE_S", 0.05)
        patch.setattr(follow, "CLAIM_AGAIN_S", 0.1)
        site = tmp_path_factory.mktemp("site")
        shorten(patch, site, BACKUP, MONGO_CLIENT, **timeouts)
        shorten(patch, site, BACKUP, follow.__name__, CLAIM_AGAIN_S=0.1)
        with Jamboree(home=home, namespace="busy", backup=True, backup_interval_s=0.1) as jam:
            NoteHandler(jam, "busy").save({"n": 1})
            wait_until(lambda: bool(backups_of(home)))
            yield home


def backups_of(home: Path) -> list[int]:
    found = []
    for one in processes_of(home):
        with suppress(psutil.Error):  # it has ended meanwhile
            if BACKUP in one.cmdline():
                found.append(one.pid)
    return found


def log_of(home: Path) -> str:
    return (home / "supervisor.log").read_text()


def run(home: Path, body: str) -> None:
    """A client that runs to its end and says nothing."""
    ended = run_warm(CLIENT + body, home)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


RECORD = """
with Jamboree(home=home, backup=True, backup_interval_s=0.1) as jam:
    NoteHandler(jam, "short").save({"n": 1})
"""


def record(home: Path) -> None:
    """Be a client for a moment."""
    with Jamboree(home=home, backup=True, backup_interval_s=0.1) as jam:
        NoteHandler(jam, "short").save({"n": 1})


# -- it comes by itself, and goes -----------------------------------------------------------------


@pytest.mark.long
def test_who_records_and_is_gone_at_once_is_backed_up(home: Path) -> None:
    run(home, RECORD)
    with Jamboree(home=home, backup=False) as jam:
        wait_until(lambda: is_complete(jam))
        assert NoteHandler(jam, "short").count() == 1
        check_that_all_is_kept_once(jam)
        status = server_status(home)
        assert (status.clients, status.last_error) == (1, None)
        assert backups_of(home) == [status.backup_pid]
        wait_until(lambda: str(status.backup_pid) in str(jam.backup.status().follower))


def test_the_last_client_is_gone_before_mongo_is_up_and_all_is_copied_before_they_stop(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = {"LAST_COPY_S": 60.0, "MONGO_START_S": 60.0}  # of a machine that is very busy
    shorten(monkeypatch, tmp_path, SUPERVISOR, BACKUP_PROCESS, **patience)
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "0")
    record(home)
    wait_until(lambda: not processes_of(home))
    with Jamboree(home=home, backup=False) as jam:
        assert NoteHandler(jam, "short").count() == 1
        assert is_complete(jam)
        assert jam.backup.verify()


@pytest.mark.long
def test_down_lets_it_copy_what_came_last(used_home: Path) -> None:
    with Jamboree(home=used_home, backup=True, backup_interval_s=0.1) as jam:
        load = Load(jam)
        load.go_on(0.1)
        wait_until(lambda: bool(backups_of(used_home)) and is_complete(jam))
        load.go_on(0.3)
    assert stop_servers(used_home)
    assert not processes_of(used_home)
    with Jamboree(home=used_home, backup=False) as jam:
        assert is_complete(jam)
        check_that_all_is_kept_once(jam)


def test_a_script_that_ends_without_close_is_backed_up(busy_home: Path, namespace: str) -> None:
    body = f"""
jam = Jamboree(home=home, namespace={namespace!r}, backup=True, backup_interval_s=0.1)
NoteHandler(jam, "script").save({{"n": 1}})
"""
    run(busy_home, body)
    with Jamboree(home=busy_home, namespace=namespace, backup=False) as jam:
        wait_until(lambda: jam.backup.status().follower and is_complete(jam))
        assert NoteHandler(jam, "script").count() == 1
        check_that_all_is_kept_once(jam)


def test_two_namespaces_share_one_process(busy_home: Path, namespace: str) -> None:
    jams = [
        Jamboree(home=busy_home, namespace=namespace + name, backup=True, backup_interval_s=0.1)
        for name in ("a", "b/ü")
    ]
    for jam in jams:
        NoteHandler(jam, "n").save({"n": 1})
        wait_until(lambda jam=jam: jam.backup.status().follower and is_complete(jam))
    assert len(backups_of(busy_home)) == 1
    for jam in jams:
        jam.close()


def test_of_several_programs_the_shortest_interval_counts(busy_home: Path, namespace: str) -> None:
    options: dict[str, Any] = {"home": busy_home, "namespace": namespace, "backup": True}
    with Jamboree(**options, backup_interval_s=3600) as slow:
        NoteHandler(slow, "slow").save({"n": 1})
        slow.flush()
        wait_until(lambda: slow.backup.status().follower is not None)
        NoteHandler(slow, "slow").save({"n": 2})
        slow.flush()
        with Jamboree(**options, backup_interval_s=0.1) as quick:
            NoteHandler(quick, "quick").save({"n": 1})
            wait_until(lambda: is_complete(quick))
        NoteHandler(slow, "slow").save({"n": 3})
        slow.flush()
        wait_until(lambda: is_complete(slow))
        check_that_all_is_kept_once(slow)


def test_a_forked_child_alone_records(busy_home: Path, namespace: str) -> None:
    body = f"""
jam = Jamboree(home=home, namespace={namespace!r}, backup=True, backup_interval_s=0.1)
if pid := os.fork():
    assert os.waitpid(pid, 0)[1] == 0
else:
    NoteHandler(jam, "child").save({{"n": 1}})
    jam.close()
    os._exit(0)
jam.close()
"""
    run(busy_home, body)
    with Jamboree(home=busy_home, namespace=namespace, backup=False) as jam:
        wait_until(lambda: jam.backup.status().follower and is_complete(jam))
        assert NoteHandler(jam, "child").count() == 1
        assert jam.backup.verify()


# -- where it is not wanted -----------------------------------------------------------------------


def test_where_it_is_not_wanted_nothing_is_started(home: Path) -> None:
    with Jamboree(home=home, backup=False) as jam:
        play(jam.record(CountingEnv(3)), [ACTION] * 3)
    assert stop_servers(home)
    assert "backup started" not in log_of(home)
    assert "mongo started" not in log_of(home)


def test_who_only_reads_starts_nothing(home: Path) -> None:
    with Jamboree(home=home, backup=False) as jam:
        NoteHandler(jam, "read").save({"n": 1})
    with Jamboree(home=home, backup=True, backup_interval_s=0.1) as jam:
        assert NoteHandler(jam, "read").count() == 1
    assert stop_servers(home)
    assert "backup started" not in log_of(home)
    assert "mongo started" not in log_of(home)


# -- what dies ------------------------------------------------------------------------------------


@pytest.mark.long  # the next one kills it together with the supervisor
@pytest.mark.parametrize("kills", [1, 3])
def test_killed_again_and_again_it_comes_back_nothing_is_missing_or_twice_and_it_keeps_no_servers(
    used_home: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAMBOREE_IDLE_EXIT_S", "0.2")
    with Jamboree(home=used_home, backup=True, backup_interval_s=0.1) as jam:
        load = Load(jam)
        for number in range(kills):
            load.go_on(0.05)
            wait_until(lambda: server_status(used_home).backup_pid is not None)
            load.go_on(0.3)
            kill(server_status(used_home).backup_pid)
            wait_until(lambda number=number: server_status(used_home).backup_restarts == number + 1)
        load.go_on(0.1)
        wait_until(lambda: is_complete(jam))
        check_that_all_is_kept_once(jam)
        status = server_status(used_home)
        assert "the backup" in str(status.last_error)
        assert "killed by signal 9" in str(status.last_error)
        wait_until(lambda: server_status(used_home).backup_pid is not None)
    wait_until(lambda: not processes_of(used_home))
    log = log_of(used_home)
    assert log.index("backup stopped") < log.index("valkey stopped")


def test_no_process_outlives_a_killed_supervisor_and_the_next_delivery_brings_both_back(
    used_home: Path,
) -> None:
    with Jamboree(home=used_home, backup=True, backup_interval_s=0.1) as jam:
        NoteHandler(jam, "one delivery").save({"n": 1})  # a second one could be the next
        wait_until(lambda: bool(backups_of(used_home)))
        (first,) = backups_of(used_home)
        kill(server_status(used_home).supervisor_pid)
        wait_until(lambda: is_gone(first))
        assert not backups_of(used_home)

        Load(jam).go_on(0.1)
        wait_until(lambda: server_status(used_home).backup_pid is not None)
        wait_until(lambda: is_complete(jam))
        assert server_status(used_home).clients == 1
        check_that_all_is_kept_once(jam)


@pytest.mark.long
def test_a_supervisor_killed_between_two_clients_leaves_no_process(used_home: Path) -> None:
    run(used_home, RECORD)
    wait_until(lambda: bool(backups_of(used_home)))
    kill(server_status(used_home).supervisor_pid)
    wait_until(lambda: not backups_of(used_home))
    assert stop_servers(used_home)
    wait_until(lambda: not processes_of(used_home))


def test_a_mongo_that_comes_back_on_another_port_is_found(busy_home: Path, namespace: str) -> None:
    with Jamboree(home=busy_home, namespace=namespace, backup=True, backup_interval_s=0.1) as jam:
        load = Load(jam)
        load.go_on(0.1)
        wait_until(lambda: jam.backup.status().follower and is_complete(jam))
        (backup,) = backups_of(busy_home)
        jam.mongo.command("ping")
        url = MongoProgram(Home.at(busy_home)).url
        with taken_port_of_mongo(busy_home):
            wait_until(lambda: MongoProgram(Home.at(busy_home)).url != url)
            load.go_on(0.1)
            wait_until(lambda: is_complete(jam))
        assert backups_of(busy_home) == [backup]
    with Jamboree(home=busy_home, namespace=namespace, backup=False) as jam:
        wait_until(lambda: is_complete(jam))  # the end of the episode, too
        check_that_all_is_kept_once(jam)


def taken_port_of_mongo(home: Path) -> socket.socket:
    """Kill Mongo, and listen on its port before it is back."""
    port = MongoProgram(Home.at(home))._access().port
    while True:
        pid = server_status(home).mongo_pid
        if pid is None:  # it is being started again: next time
            continue
        with suppress(ProcessLookupError):  # killed the last time, and reaped since it was asked
            os.kill(pid, signal.SIGKILL)
        taken = listening_on(port)
        if taken is not None:
            return taken


def listening_on(port: int) -> socket.socket | None:
    """A socket that listens there, if the port becomes free before long."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for _ in range(1000):
        try:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            return taken
        except OSError:
            continue
    taken.close()
    return None


def test_killed_valkey_is_backed_up_when_it_is_back(busy_home: Path, namespace: str) -> None:
    with Jamboree(home=busy_home, namespace=namespace, backup=True, backup_interval_s=0.1) as jam:
        load = Load(jam)
        load.go_on(0.1)
        wait_until(lambda: jam.backup.status().follower and is_complete(jam))
        kill(server_status(busy_home).redis_pid)
        load.go_on(0.1)
        wait_until(lambda: is_complete(jam))
        check_that_all_is_kept_once(jam)


# -- what cannot work -----------------------------------------------------------------------------


@pytest.mark.long  # test_embedded_failures.py: it cannot start; below: what is told once
@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("mongo.json", "{", "mongo.json is damaged"),
        ("mongo", "", "cannot keep the embedded servers"),
    ],
)
def test_a_mongo_that_cannot_be_started_stops_nobody_says_why_and_the_next_client_may_try(
    home: Path, caplog: pytest.LogCaptureFixture, file: str, content: str, why: str
) -> None:
    home.mkdir(mode=0o700)
    (home / file).write_text(content)
    with Jamboree(home=home, backup=True, backup_interval_s=0.1) as jam:
        play(jam.record(CountingEnv(5)), [ACTION] * 5)
        wait_until(lambda: why in str(jam.backup.status().last_error))
        assert why in str(server_status(home).last_error)
    record(home)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    (home / file).unlink()
    record(home)
    with Jamboree(home=home, backup=False) as jam:
        wait_until(lambda: is_complete(jam))
        wait_until(lambda: jam.backup.status().last_error is None)
        check_that_all_is_kept_once(jam)
    assert log_of(home).count(why) == 1


@pytest.mark.long  # test_embedded_failures.py has a Valkey that is stopped
def test_a_process_that_does_not_end_is_killed(
    used_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, tmp_path, SUPERVISOR, BACKUP_PROCESS, LAST_COPY_S=0.5)
    with Jamboree(home=used_home, backup=True, backup_interval_s=0.1) as jam:
        NoteHandler(jam, "n").save({"n": 1})
        wait_until(lambda: bool(backups_of(used_home)))
        (backup,) = backups_of(used_home)
        os.kill(backup, signal.SIGSTOP)
    assert stop_servers(used_home)
    assert is_gone(backup)
    assert "did not end within" in log_of(used_home)


def test_a_supervisor_that_cannot_be_asked_is_told_once_and_tried_again(
    home: Path, jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("no directory")
    asks = SupervisorsBackup(
        EmbeddedServers(Home.at(home), timeout_s=0.1), jam._connection.redis_store, 0.1
    )
    news, stop = threading.Event(), threading.Event()
    news.set()
    thread = threading.Thread(target=asks.run, args=(news, stop))
    thread.start()
    wait_until(lambda: asks.trouble is not None)
    stop.set()
    news.set()
    thread.join()
    warnings = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "nothing is backed up until that is over" in warnings[0]


def test_what_is_no_message_ends_the_process_after_a_last_copy(home: Path) -> None:
    home.mkdir(mode=0o700)
    command = [sys.executable, "-m", BACKUP, "--home", str(home)]
    ended = subprocess.run(command, input=b"[]\n", capture_output=True, check=False)
    assert ended.returncode == 1
    assert b"a control message is a JSON object" in ended.stderr


def test_a_home_that_is_opened_with_a_mongo_url_is_copied_there_and_later_to_its_own_again(
    busy_home: Path, mongo: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def open_it(mongo_url: str | None) -> Jamboree:
        return Jamboree(
            home=busy_home, mongo_url=mongo_url, namespace="two", backup=True, backup_interval_s=0.1
        )

    def save(mongo_url: str | None, n: int) -> Jamboree:
        with open_it(mongo_url) as jam:
            NoteHandler(jam, "n").save({"n": n})
            wait_until(lambda: jam.backup.status().mongo == jam._connection.backup_store.where)
            wait_until(lambda: is_complete(jam))
            assert jam.backup.verify()
            assert len(list(jam._connection.backup_store.keys())) == 1
            assert jam._connection.backup_store.records() == n + 1
        return jam

    save(None, 0)
    save(mongo.url, 1)
    save(None, 2)
    assert caplog.text == ""


# -- without an embedded MongoDB server -----------------------------------------------------------

WITHOUT_SECANTUS = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "secantus":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
"""

SAVE_AND_EMPTY = """
from typer.testing import CliRunner
from jamboree_gym.cli import build_app

with Jamboree(home=home, backup=True, backup_interval_s=0.1) as jam:
    NoteHandler(jam, "short").save_many({"n": n} for n in range(5))
    jam.flush()
    while jam.backup.status().pending_records or not jam.backup.status().follower:
        time.sleep(0.01)
    print(jam.backup.status())
    print(CliRunner().invoke(build_app(), ["up", "--home", str(home)]).output, end="")
    assert jam.backup.verify()
    jam.redis.flushall()
    print(NoteHandler(jam, "short").count())
    NoteHandler(jam, "short").save({"n": 5})
print(server_status(home).last_error, server_status(home).mongo_pid)
stop_servers(home)
with Jamboree(home=home) as jam:
    jam.backup.restore()  # what the backup process has not restored yet
    print(NoteHandler(jam, "short").count())
stop_servers(home)
"""


@pytest.mark.long  # test_folder_backup.py has such a backup
def test_where_no_mongodb_server_is_installed_the_backup_is_a_folder_in_the_home(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_SECANTUS)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    variables = {**os.environ, "PYTHONPATH": paths}
    client = start_warm(WITHOUT_SECANTUS + CLIENT + SAVE_AND_EMPTY, home, environment=variables)
    printed, errors = client.communicate(timeout=60)
    assert (client.returncode, errors) == (0, ""), printed
    lines = printed.splitlines()
    folder = home / "backup"
    assert f"copied to: {folder.as_uri()}" in lines
    assert f"folder {folder.as_uri()}" in lines  # of `jamboree-gym up`
    assert (
        f"backup is: the folder {folder}, because no embedded MongoDB server (SecantusDB) is "
        "installed"
    ) in lines
    assert lines[-3:] == ["5", "None None", "6"]
    with Jamboree(home=home, backup=False) as jam:  # installed later: the folder stays the backup
        assert NoteHandler(jam, "short").count() == 6
        assert jam.backup.verify()
        assert "begun while no embedded MongoDB server" in jam.backup.status().kind
    assert not (home / "mongo").exists()
