"""What our client asks of a MongoDB, whatever the options of its URL say."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import pymongo
import pytest
from conftest import Server
from proxy import Proxy, direct
from pymongo import MongoClient, ReadPreference
from stable_api import REPLICA_SET, Commands, faults_of

from jamboree_gym.errors import StoreUnavailable
from jamboree_gym.keys import digest
from jamboree_gym.store.mongo import client as mongo_client
from jamboree_gym.store.mongo.client import client_from_url
from jamboree_gym.store.mongo.link import MongoLink
from jamboree_gym.store.mongo.store import MongoStore

HOST_UNREACHABLE = 6

WEAK = "?w=1&journal=false&readPreference=nearest&readConcernLevel=local"


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://localhost",
        f"mongodb://localhost/{WEAK}",
        f"mongodb://one,two,three/{WEAK}&replicaSet=rs0",
    ],
)
def test_no_url_weakens_what_is_written_and_read(url: str) -> None:
    link = MongoLink(client_from_url(url), "space", where="")

    for collection in (link.logs, link.chunks, link.bundles, link.blobs, link.deleted):
        assert collection.write_concern.document == {"w": "majority", "j": True}
        assert collection.read_concern.document == {"level": "majority"}
        assert collection.read_preference == ReadPreference.PRIMARY
    link.close()


def test_closing_does_not_wait_for_a_server_that_is_away(
    mongo_line: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 600.0)  # longer than a test may take
    store = MongoStore.from_url(direct(mongo_line), namespace)
    client = store.database.client
    with client.start_session() as session:  # one more than the request below gives up
        client.admin.command("ping", session=session)
        store.setting("any")
    mongo_line.lose_server()
    with pymongo.timeout(0.1), pytest.raises(StoreUnavailable):
        store.setting("any")
    store.close()


def test_a_client_retries() -> None:
    with client_from_url("mongodb://localhost") as client:
        assert (client.options.retry_writes, client.options.retry_reads) == (True, True)
    with client_from_url("mongodb://localhost/?retryWrites=false") as client:
        assert not client.options.retry_writes  # for servers that have none


@pytest.mark.parametrize("lost", ["the answer", "another server"])
def test_a_write_to_a_replica_set_is_sent_again_and_done_once(
    mongo: Server, namespace: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    commands = Commands()
    client = partial(MongoClient, event_listeners=[commands])
    monkeypatch.setattr(pymongo, "MongoClient", client)
    how = {"closeConnection": True} if lost == "the answer" else {"errorCode": HOST_UNREACHABLE}
    url = f"{mongo.url}/?replicaSet={REPLICA_SET}"
    with (
        closing(MongoStore.from_url(url, namespace)) as store,
        MongoClient(mongo.url) as administrator,
    ):
        fail = partial(administrator.admin.command, "configureFailPoint", "failCommand")
        data = {"failCommands": ["insert"], "appName": "jamboree-gym", **how}
        fail(mode={"times": 1}, data=data)
        try:
            store.put_blobs({digest(b"x"): b"x"})
        finally:
            fail(mode="off")
        assert store.blobs() == {digest(b"x"): b"x"}
    first, second = (sent for name, sent in commands.sent if name == "insert")
    assert first["txnNumber"] == second["txnNumber"]
    assert first["lsid"] == second["lsid"]


@pytest.mark.parametrize(
    ("name", "command", "fault"),
    [
        ("find", {"apiStrict": False}, "it does not ask for the strict Stable API"),
        ("distinct", {}, "it is not in the Stable API"),
        ("insert", {"writeConcern": {"w": 1}}, "it waits for {'w': 1}"),
        ("find", {"readConcern": None}, "it reads with None"),
        ("find", {"noCursorTimeout": True}, "noCursorTimeout is not stable"),
        ("createIndexes", {"indexes": [{"key": {"a": "text"}}]}, "'text' is not stable"),
        ("createIndexes", {"indexes": [{"key": {}, "sparse": True}]}, "sparse is not stable"),
        ("aggregate", {"pipeline": [{"$indexStats": {}}]}, "$indexStats is not stable"),
    ],
)
def test_a_command_that_is_not_stable_is_found(
    name: str, command: dict[str, object], fault: str
) -> None:
    right = {
        "apiVersion": "1",
        "apiStrict": True,
        "writeConcern": {"w": "majority", "j": True},
        "readConcern": {"level": "majority"},
    }
    assert list(faults_of(name, right | command)) == [fault]
