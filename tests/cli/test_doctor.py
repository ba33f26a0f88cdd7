"""`jamboree-gym doctor`: each thing that can be wrong with a set-up is found, with its mend."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import Server, start_redis, valkey_program
from recorded_store import play
from typer.testing import CliRunner, Result

from jamboree_gym import Jamboree
from jamboree_gym.cli import app
from jamboree_gym.diagnosis import Finding, diagnose, redis_server
from jamboree_gym.diagnosis.packages import _of_extra
from jamboree_gym.journal.journal import JournalOwner
from jamboree_gym.store.mongo import client as mongo_client


def doctor(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)], env=environment)


def found(redis_url: str | None, **options: object) -> dict[str, Finding]:
    return {one.check: one for one in diagnose(redis_url, **options)}  # type: ignore[arg-type]


def test_a_good_set_up_has_no_problem(
    valkey: Server, mongo: Server, namespace: str, tmp_path: Path
) -> None:
    with Jamboree(valkey.url, mongo.url, namespace=namespace, home=tmp_path) as jam:
        play(jam.record(gym.make("CartPole-v1")), seed=1)
        jam.backup.flush()
    options = ("--redis-url", valkey.url, "--backup-url", mongo.url, "--home", tmp_path)
    done = doctor(*options, "--namespace", namespace)
    assert done.exit_code == 0, done.output
    for text in ("ok       python", "ok       redis disk", "the backup has everything"):
        assert text in done.stdout
    printed = json.loads(doctor(*options, "--namespace", namespace, "--json").stdout)
    assert printed["problems"] == 0
    assert {"check", "level", "found", "mend"} == printed["checks"][0].keys()


def test_what_would_lose_data_is_a_problem(short_directory: Path, tmp_path: Path) -> None:
    server = start_redis(
        valkey_program(),
        short_directory / "forgetful",
        *("--appendonly", "no", "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"),
    )
    try:
        checks = found(server.url, home=tmp_path, clock=lambda: time.time() + 100)
    finally:
        server.stop()
    assert checks["redis disk"].level == "problem"
    assert "appendonly yes" in checks["redis disk"].mend
    assert checks["redis eviction"].level == "problem"
    assert "noeviction" in checks["redis eviction"].mend
    assert checks["redis clock"].level == "problem"
    assert "behind this machine" in checks["redis clock"].found
    assert checks["namespace"].level == "note"


def test_memory_that_nothing_limits_is_noted_when_half_of_it_is_used(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, space = jam._connection.redis_url, jam._connection.keyspace.namespace
    options = {"namespace": space, "home": tmp_path}
    assert found(url, **options)["redis memory"].level == "ok"
    monkeypatch.setattr(redis_server, "MACHINE_SHARE", 1e-9)
    checked = found(url, **options)["redis memory"]
    assert checked.level == "note"
    assert "MiB of its machine, without a limit" in checked.found
    assert "retain --max-redis-bytes" in checked.mend
    jam.backup.retain(max_redis_bytes=2**40)
    assert found(url, **options)["redis memory"].level == "ok"


def test_a_doctor_changes_nothing(valkey: Server, namespace: str, tmp_path: Path) -> None:
    home = tmp_path / "none"
    found(valkey.url, home=home, namespace=namespace)
    with Jamboree(valkey.url, namespace=f"{namespace}-other", home=tmp_path) as jam:
        assert list(jam.redis.scan_iter(f"*{namespace}:*")) == []
    assert not home.exists()


def test_servers_that_do_not_answer_are_problems_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    done = doctor(
        *("--redis-url", "redis://user:secret@127.0.0.1:1", "--home", tmp_path),
        *("--backup-url", "mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100"),
    )
    assert done.exit_code == 1
    assert "problem  backup store" in done.stdout
    assert "problem  redis" in done.stdout
    assert "-> start it, or mend --redis-url" in done.stdout
    assert "secret" not in done.output


def test_a_namespace_of_an_older_release_is_a_problem(jam: Jamboree, tmp_path: Path) -> None:
    url = jam._connection.redis_url
    namespace = f"{jam._connection.keyspace.namespace}-old"
    space = type(jam._connection.keyspace)(namespace)
    jam.redis.zadd(space.without_bucket("unbacked"), {"log": 1})
    checks = found(url, namespace=namespace, home=tmp_path)
    assert checks["namespace"].level == "problem"
    assert "jamboree-gym migrate" in checks["namespace"].mend
    assert "backup" not in checks


@pytest.mark.parametrize("boot", ["", "another"])
def test_journals_of_dead_processes_are_found(jam: Jamboree, tmp_path: Path, boot: str) -> None:
    play(jam.record(gym.make("CartPole-v1")), seed=1)
    jam.flush()
    (tmp_path / "journal").mkdir()
    owner = asdict(jam._connection.journal.owner) | {"writer": "0" * 16}
    lock = tmp_path / "journal" / f"{owner['writer']}.lock"
    lock.write_text(json.dumps(owner | ({"boot": boot} if boot else {})))
    lock.chmod(0o600)
    url = jam._connection.redis_url
    namespace = jam._connection.keyspace.namespace
    journal = found(url, namespace=namespace, home=tmp_path)["journal"]
    assert journal.level == ("problem" if boot else "note")
    assert ("--restarted" if boot else "jamboree-gym runs") in journal.mend
    assert lock.exists()
    assert JournalOwner(**json.loads(lock.read_text())).writer == "0" * 16


def test_a_home_is_looked_at(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert found(None, home=home)["home"].level == "note"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    assert found(None, home=home)["home access"].mend == f"chmod 700 {home}"
    home.chmod(0o700)
    checks = found(None, home=home)
    assert checks["home access"].level == "ok"
    assert checks["servers"].found == "not running"
    assert checks["redis"].mend == "jamboree-gym up"
    (home / "start.lock").symlink_to(tmp_path / "elsewhere")
    foreign = found(None, home=home)["home"]
    assert (foreign.level, "symbolic link" in foreign.found) == ("problem", True)


def test_a_supervisor_that_holds_its_lock_and_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    lock = os.open(tmp_path / "supervisor.lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        servers = found(None, home=tmp_path)["servers"]
    finally:
        os.close(lock)
    assert servers.level == "problem"
    assert "jamboree-gym down" in servers.mend


def test_an_extra_that_is_missing_is_a_note_and_one_that_is_too_old_a_problem() -> None:
    missing = _of_extra("video", ["no-such-package>=1.0; extra == 'video'"])
    assert (missing.level, missing.mend) == ("note", "pip install 'jamboree-gym[video]'")
    old = _of_extra("video", ["numpy>=99.0; extra == 'video'"])
    assert (old.level, "is too old: 99.0 or newer is needed" in old.found) == ("problem", True)
