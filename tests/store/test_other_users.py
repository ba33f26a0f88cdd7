"""Embedded servers, and somebody else on the same machine: nothing can be reached, read or seen.

Where the tests run as root, another user really tries. Elsewhere nobody can become one, and what
keeps him out is looked at instead: owner and mode of each path.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil
import pytest
from embedded_home import new_home, processes_of, use_before
from processes import NoteHandler

from jamboree_gym import Jamboree
from jamboree_gym.errors import EmbeddedServerError
from jamboree_gym.servers.embedded import EmbeddedServers, stop_servers
from jamboree_gym.servers.home import Home

NOBODY = 65534
# Reads a list of attempts, becomes another user, and says of each attempt what came of it.
INTRUDER = """
import json, os, signal, socket, sys
from contextlib import suppress
from pathlib import Path

def connect(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
        return "connected"

def read(path):
    return Path(path).read_bytes().decode(errors="replace")

def write(path):
    Path(path).write_text("mine")
    return "written"

def see(path):
    return os.listdir(path)

def delete(path):
    os.unlink(path)
    return "deleted"

def signalled(pid):
    os.kill(pid, signal.SIGTERM)
    return "signalled"

def mongo(url):
    from pymongo import MongoClient
    with MongoClient(url, serverSelectionTimeoutMS=3000) as client:
        return str(client.admin.command("usersInfo"))

attempts = json.load(sys.stdin)
for what, target in attempts:  # he may not be able to read what is imported on the way
    if what == "mongo":
        with suppress(Exception):
            mongo(target)
os.setgroups([])
os.setgid(USER)
os.setuid(USER)
for what, target in attempts:
    try:
        outcome = "OK " + str(globals()[what](target))
    except Exception as error:
        outcome = type(error).__name__ + " " + str(error)
    print(json.dumps([what, target, outcome]))
""".replace("USER", str(NOBODY))


@pytest.fixture(
    scope="module",
    params=["", pytest.param("deep" * 20 + "/", marks=pytest.mark.long)],
    ids=["near", "too-deep-for-sockets"],
)
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServers]:
    """Both servers, with data, in a directory that everybody can look into.

    They are started by a process whose new files are everybody's unless it says otherwise.
    The near ones are new.
    """
    before = os.umask(0)
    try:
        with new_home() as home:
            place = home.parent / f"{request.param}home"
            place.parent.mkdir(exist_ok=True)
            if request.param:
                use_before(place, tmp_path_factory.getbasetemp())
            with EmbeddedServers.join(place) as joined, Jamboree(home=place) as jam:
                NoteHandler(jam, "n").save({"n": "S3CR3T"})
                assert jam.backup.flush() == 1
                yield joined
            stop_servers(place)
    finally:
        os.umask(before)


def tried(attempts: list[tuple[str, Any]]) -> list[tuple[str, Any, str]]:
    """What comes of it when another user tries."""
    done = subprocess.run(
        [sys.executable, "-c", INTRUDER],
        input=json.dumps(attempts),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def places(servers: EmbeddedServers) -> tuple[Path, list[Path]]:
    """The home, and every path in it and in the directory of the sockets."""
    home = servers.status().home
    sockets = Path(unquote(urlsplit(servers.redis_url).path)).parent
    found = {home, sockets, *home.rglob("*"), *sockets.rglob("*")}
    assert {"valkey.sock", "control.sock", "mongo.json"} <= {path.name for path in found}
    return home, sorted(found)


def test_another_user_reaches_and_reads_nothing(servers: EmbeddedServers) -> None:
    mongo = urlsplit(servers.mongo_url())
    home, paths = places(servers)
    if os.geteuid() != 0:
        assert_only_its_owner_gets_in(paths)
        return
    mongo_at = f"127.0.0.1:{mongo.port}/?directConnection=true"
    attempts: list[tuple[str, Any]] = [
        *(("connect", str(path)) for path in paths if path.is_socket()),
        *(("read", str(path)) for path in paths if path.is_file()),
        *(("see", str(path)) for path in paths if path.is_dir()),
        *(("delete", str(path)) for path in paths if not path.is_dir()),
        ("write", str(home / "new")),
        ("write", str(home / "mongo.json")),
        ("mongo", f"mongodb://{mongo_at}"),
        ("mongo", f"mongodb://jamboree:wrong@{mongo_at}"),
        *(("signalled", process.pid) for process in processes_of(home)),
        *(("read", f"/proc/{process.pid}/environ") for process in processes_of(home)),
    ]
    outcomes = tried(attempts)

    assert len(outcomes) == len(attempts)
    refusals = ("PermissionError", "OperationFailure")
    assert [one for one in outcomes if not one[2].startswith(refusals)] == []


def test_the_password_is_in_no_command_line(servers: EmbeddedServers) -> None:
    password = urlsplit(servers.mongo_url()).password or ""
    home, _ = places(servers)
    ours = processes_of(home)
    assert len(ours) == 3  # the supervisor and its two servers
    for process in [*ours, psutil.Process()]:
        assert password not in " ".join(process.cmdline())
        assert password not in str(process.environ())
    if os.geteuid() == 0:  # what `ps` of another user reads
        command_lines = [("read", f"/proc/{process.pid}/cmdline") for process in ours]
        for _, _, outcome in tried(command_lines) if sys.platform == "linux" else ():
            assert outcome.startswith("OK")
            assert password not in outcome


def test_the_password_is_only_in_the_file_that_is_for_it(servers: EmbeddedServers) -> None:
    password = (urlsplit(servers.mongo_url()).password or "").encode()
    _, paths = places(servers)
    holding = [path.name for path in paths if path.is_file() and password in path.read_bytes()]
    assert holding == ["mongo.json"]


def test_only_its_owner_gets_into_any_path(servers: EmbeddedServers) -> None:
    servers.mongo_url()
    assert_only_its_owner_gets_in(places(servers)[1])


def assert_only_its_owner_gets_in(paths: list[Path]) -> None:
    for path in paths:
        found = path.lstat()
        assert found.st_uid == os.geteuid(), path
        assert stat.S_IMODE(found.st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("trap", ["directory", "symlink"])
def test_a_directory_for_sockets_that_somebody_else_has_made_is_not_used(
    monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    with new_home() as home:
        everybodys = home.parent / "tmp"
        everybodys.mkdir()
        everybodys.chmod(0o1777)
        monkeypatch.setattr("tempfile.tempdir", str(everybodys))
        deep = Home.at(home.parent / ("deep" * 25))
        name = deep.prepare_socket_dir()
        name.rmdir()
        if trap == "directory":
            name.mkdir(mode=0o777)
            (name / "theirs").touch()
            name.chmod(0o777)
            if os.geteuid() == 0:
                os.chown(name, NOBODY, NOBODY)
        else:
            name.symlink_to(home.parent)
        with pytest.raises(
            EmbeddedServerError, match=r"another user|not a directory|open to other"
        ):
            deep.prepare_socket_dir()
