"""Every kind of backup, each a real one, does what `backup_contract.py` says."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
import pytest
from backup_contract import BackupContract, OpenBackup
from conftest import Server, free_port, mongo_answers
from stable_api import REPLICA_SET, Commands, faults_of

from jamboree_gym.store.backups import opening
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.folder.store import FolderStore
from jamboree_gym.store.mongo.store import MongoStore

OWN_MONGO = os.environ.get("JAMBOREE_TEST_MONGO_URL")


class OfUrl(BackupContract):
    """A backup by its URL, in a namespace of its own."""

    @pytest.fixture
    def opened(self) -> Iterator[list[BackupStore]]:
        stores: list[BackupStore] = []
        yield stores
        for store in stores:
            store.close()

    @pytest.fixture
    def open_backup(self, url: str, namespace: str, opened: list[BackupStore]) -> OpenBackup:
        def open_one() -> BackupStore:
            opened.append(opening.open_backup(url, namespace))
            return opened[-1]

        return open_one

    @pytest.fixture
    def open_other(self, url: str, namespace: str, opened: list[BackupStore]) -> OpenBackup:
        def open_one() -> BackupStore:
            opened.append(opening.open_backup(url, f"{namespace}-2"))
            return opened[-1]

        return open_one


class TestFolder(OfUrl):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return (tmp_path / "backup of mine").as_uri()


class OfMongo(OfUrl):
    """One in MongoDB; each command of the whole contract is held to the Stable API."""

    @pytest.fixture(autouse=True)
    def all_is_in_the_stable_api(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        commands = Commands()
        client = partial(pymongo.MongoClient, event_listeners=[commands])
        monkeypatch.setattr(pymongo, "MongoClient", client)
        yield
        assert commands.sent
        assert {
            (name, fault) for name, sent in commands.sent for fault in faults_of(name, sent)
        } == (set())


class TestSecantus(OfMongo):
    """As a replica set of one server; all other tests use it as a single server."""

    @pytest.fixture
    def url(self, mongo: Server) -> str:
        weak = "w=1&journal=false&readPreference=secondaryPreferred"
        return f"{mongo.url}/?replicaSet={REPLICA_SET}&{weak}"


@pytest.fixture(scope="module")
def nx27017(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Another MongoDB wire server, on SQLite."""
    port, data = free_port(), tmp_path_factory.mktemp("nx")
    program = shutil.which("nx-27017", path=str(Path(sys.executable).parent))
    assert program
    command = [program, "--data-dir", str(data / "databases"), "--port", str(port)]
    command += ["--log-file", str(data / "log"), "--pid-file", str(data / "pid")]
    server = Server(f"mongodb://127.0.0.1:{port}", command, mongo_answers).start()
    yield server
    server.kill()


@pytest.mark.nx27017
class TestNx27017(OfMongo):
    @pytest.fixture
    def url(self, nx27017: Server) -> str:
        return nx27017.url

    @pytest.mark.long  # it takes seconds for it; SecantusDB shows the same
    def test_a_batch_of_many_megabytes_comes_back(self, store: BackupStore) -> None:
        super().test_a_batch_of_many_megabytes_comes_back(store)

    # It cannot read a part of an array, so it finds no episode in a bundle (of 8 and more).
    @pytest.mark.parametrize("count", [3])
    def test_many_short_logs_are_read_and_listed(self, store: BackupStore, count: int) -> None:
        super().test_many_short_logs_are_read_and_listed(store, count)


if OWN_MONGO:

    class TestOwnMongo(OfMongo):
        @pytest.fixture
        def url(self) -> str:
            assert OWN_MONGO
            return OWN_MONGO


@pytest.mark.once
@pytest.mark.parametrize("store", [FolderStore, MongoStore])
def test_a_backup_takes_the_arguments_of_the_protocol(store: type[BackupStore]) -> None:
    def arguments(method: Any) -> list[Any]:
        parameters = inspect.signature(method).parameters.values()
        return [(of.name, of.kind, of.default) for of in parameters]

    names = [name for name, value in vars(BackupStore).items() if inspect.isfunction(value)]
    methods = [name for name in names if not name.startswith("_")]
    assert "insert_batches" in methods
    for name in methods:
        assert arguments(getattr(store, name)) == arguments(getattr(BackupStore, name)), name
        assert getattr(store, name) is not getattr(BackupStore, name), name
