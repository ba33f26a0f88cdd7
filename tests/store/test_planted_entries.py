"""A home that was open to others before its first use: nothing that they left in it is used.

Where the tests run as root, another user's entries are really his. Elsewhere nobody can make some,
and only the links are tried.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from embedded_home import new_home, processes_of, use_before

from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.control import ControlConnection
from jamboree_gym.servers.embedded import EmbeddedServers, server_status, stop_servers
from jamboree_gym.servers.home import Home, SupervisorRecord

NOBODY = 65534
IS_ROOT = os.geteuid() == 0
# Another user's supervisor: it answers whatever is asked with the address of his Redis.
IMPOSTOR = """
import json, os, socket, sys
os.setgroups([])
os.setgid(USER)
os.setuid(USER)
home, = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(home + "/control.sock")
os.chmod(home + "/control.sock", 0o777)
listener.listen()
for name in FILES:
    with open(home + "/" + name, "w") as file:
        json.dump({"pid": os.getpid(), "host": "here", "control": home + "/control.sock"}, file)
    os.chmod(home + "/" + name, 0o666)
print("ready", flush=True)
while True:
    client, _ = listener.accept()
    client.recv(4096)
    answer = {"ok": True, "url": "unix:///his.sock", "supervisor_pid": os.getpid()}
    client.sendall(json.dumps(answer).encode() + b"\\n")
""".replace("USER", str(NOBODY))

FILES = (
    *("start.lock", "supervisor.lock", "supervisor.log", "supervisor.json", "mongo.json"),
    *(
        "valkey.log",
        "valkey.lock",
        "mongo.log",
        "mongo.lock",
        "backup.log",
        "secantusd.toml",
        "mongo.unused",
    ),
)
SOCKETS = ("control.sock", "valkey.sock")
FOLDERS = ("valkey", "mongo")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that everybody may write to, with nothing in it."""
    with new_home() as made:
        made.mkdir()
        made.chmod(0o777)
        yield made


@contextmanager
def impostor(home: Path, *files: str) -> Iterator[int]:
    """Another user serves that home, or pretends to; yields the id of his process."""
    program = IMPOSTOR.replace("FILES", repr(files))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.kill()


def plant(path: Path) -> None:
    """An entry of the kind that has this name."""
    if path.name in FOLDERS:
        path.mkdir(mode=0o777)
    elif path.name in SOCKETS:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    else:
        path.write_text("{}")
        path.chmod(0o666)


def assert_refused(home: Path, name: str, why: str) -> None:
    for use in (EmbeddedServers.join, server_status, stop_servers):
        with pytest.raises(EmbeddedServerError, match=re.escape(name)) as refused:
            use(home)
        assert why in str(refused.value)
        assert len(str(refused.value).splitlines()) == 2
    assert processes_of(home) == []


@pytest.mark.parametrize("files", [("start.lock", "supervisor.json"), ("supervisor.json",)])
def test_the_supervisor_of_another_user_is_not_asked(home: Path, files: tuple[str, ...]) -> None:
    if not IS_ROOT:
        return
    with impostor(home, *files):
        assert_refused(home, str(home), "another user (uid 65534)")


def test_who_listens_is_looked_at_though_the_socket_is_ours(home: Path) -> None:
    if not IS_ROOT or sys.platform != "linux":
        return
    with impostor(home):
        os.chown(home / "control.sock", 0, 0)
        home.chmod(0o700)
        with pytest.raises(EmbeddedServerError, match=r"another user.* listens"):
            ControlConnection(str(home / "control.sock"))


def test_a_record_of_ours_leads_to_nobody_else(home: Path) -> None:
    if not IS_ROOT:
        return
    theirs = home.parent / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    home.chmod(0o700)
    with impostor(theirs) as pid:
        record = {"pid": pid, "host": "here", "control": str(theirs / "control.sock")}
        (home / "supervisor.json").write_text(json.dumps(record))
        assert_refused(home, str(theirs / "control.sock"), "another user (uid 65534)")


@pytest.mark.parametrize("is_open", [True, False], ids=["still open", "closed meanwhile"])
@pytest.mark.parametrize("name", [*FILES, *SOCKETS, *FOLDERS])
def test_an_entry_of_another_user_is_named_and_not_used(
    home: Path, name: str, is_open: bool
) -> None:
    if not IS_ROOT:
        return
    plant(home / name)
    os.chown(home / name, NOBODY, NOBODY)
    if not is_open:
        home.chmod(0o700)

    assert_refused(home, str(home / name), "another user (uid 65534)")

    assert [path.name for path in home.iterdir()] == [name]


@pytest.mark.parametrize("name", [*FILES, *SOCKETS, *FOLDERS])
def test_a_link_is_named_and_not_followed(home: Path, name: str) -> None:
    victim = home.parent / "theirs" / name
    victim.parent.mkdir()
    plant(victim)
    before = victim.stat()
    home.chmod(0o700)
    (home / name).symlink_to(victim)

    assert_refused(home, str(home / name), "symbolic link")

    after = victim.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert list(victim.iterdir() if name in FOLDERS else ()) == []


def test_a_second_name_of_a_file_of_ours_is_not_written_to(home: Path) -> None:
    letter = home.parent / "letter"
    letter.write_text("Dear")
    home.chmod(0o700)
    (home / "valkey.log").hardlink_to(letter)

    assert_refused(home, str(home / "valkey.log"), "another name")

    assert letter.read_text() == "Dear"


def test_a_record_that_would_never_be_read_to_its_end_is_named(home: Path) -> None:
    home.chmod(0o700)
    os.mkfifo(home / "supervisor.json")

    assert_refused(home, str(home / "supervisor.json"), "is not a file")


@pytest.mark.parametrize("where", ["valkey", "mongo"])
@pytest.mark.parametrize("kind", ["foreign", "link"])
def test_data_of_another_user_is_not_loaded(home: Path, where: str, kind: str) -> None:
    if kind == "foreign" and not IS_ROOT:
        return
    home.chmod(0o700)
    inside = home / where / "below" / "data"
    inside.parent.mkdir(parents=True)
    if kind == "foreign":
        inside.touch()
        os.chown(inside, NOBODY, NOBODY)
    else:
        inside.symlink_to(home.parent)
    refused = pytest.raises(EmbeddedServerError, match=re.escape(str(inside)))
    with refused, EmbeddedServers.join(home) as servers:
        servers.mongo_url()
    stop_servers(home)


def test_an_open_home_with_foreign_entries_is_left_as_it_is(home: Path) -> None:
    if not IS_ROOT:
        return
    (home / "thesis.tex").touch()
    plant(home / "start.lock")
    os.chown(home / "start.lock", NOBODY, NOBODY)

    assert_refused(home, str(home / "start.lock"), "another user")

    assert stat.S_IMODE(home.stat().st_mode) == 0o777


def test_drafts_are_written_into_new_files(home: Path) -> None:
    victim = home.parent / "victim"
    victim.write_text("Dear")
    ours = Home.at(home)
    ours.prepare()
    (home / f"supervisor.json.{os.getpid()}.new").symlink_to(victim)
    ours.write_record(SupervisorRecord(1, "here", "control"))

    assert victim.read_text() == "Dear"
    assert not ours.record_file.is_symlink()
    assert ours.read_record() == SupervisorRecord(1, "here", "control")


def test_no_module_that_lies_in_a_home_is_imported(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers run with the home as their working directory."""
    home.rmdir()
    use_before(home, tmp_path_factory.getbasetemp())
    mark = home.parent / "imported"
    for name in ("secantus", "jamboree_gym", "bson"):
        (home / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').write({name!r})")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *filter(None, sys.path)]))
    with EmbeddedServers.join(home) as servers:
        servers.back_up("n", interval_s=10)
        assert servers.mongo_url()
    stop_servers(home)
    assert not mark.exists()


@pytest.mark.parametrize("is_open", [True, False], ids=["still open", "closed meanwhile"])
@pytest.mark.parametrize("name", SOCKETS)
def test_a_socket_of_another_user_in_the_directory_for_them_is_not_used(
    home: Path, name: str, is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not IS_ROOT:
        return
    everybodys = home.parent / "tmp"
    everybodys.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(everybodys))
    deep = Home.at(home.parent / ("deep" * 25))
    sockets = deep.prepare_socket_dir()
    plant(sockets / name)
    os.chown(sockets / name, NOBODY, NOBODY)
    if is_open:
        sockets.chmod(0o777)

    with pytest.raises(EmbeddedServerError, match=re.escape(str(sockets / name))):
        deep.prepare_socket_dir()


def test_what_is_ours_in_a_closed_home_is_used(home: Path) -> None:
    home.chmod(0o700)
    for name in ("start.lock", "supervisor.log", "valkey.log", "control.sock", "valkey.sock"):
        plant(home / name)
    (home / "valkey").mkdir()
    with EmbeddedServers.join(home) as servers:
        assert Path(unquote(urlsplit(servers.redis_url).path)) == home / "valkey.sock"
    stop_servers(home)
