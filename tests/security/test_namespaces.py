"""Two projects on one server, their namespaces made to be mistaken for each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Server
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play
from stored import at, servers

from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeNotFound, StoreUnavailable

NAMESPACES = ["a", "a:b", "a:*", "[ab]", "{a}", "a%2A", "A"]


def fill(jam: Jamboree) -> str:
    """An episode and a record, whose text is the namespace; the episode's id."""
    env = jam.record(CountingEnv(3), run="same", tags={"of": jam._connection.keyspace.namespace})
    play(env, [ACTION] * 3)
    NoteHandler(jam, "same").save({"of": jam._connection.keyspace.namespace})
    jam.flush()
    return env.episode_id


def test_no_project_sees_lists_backs_up_restores_or_deletes_what_is_anothers(
    valkey: Server, mongo: Server, namespace: str, open_jamboree: Callable[..., Jamboree]
) -> None:
    jams = [
        open_jamboree(namespace=name.replace("a", f"{namespace}a"), mongo_url=mongo.url)
        for name in NAMESPACES
    ]
    ids = {jam: fill(jam) for jam in jams}
    for jam, id in ids.items():
        keys = (
            jam._connection.keyspace.records("note", {"name": "same"}),
            jam._connection.keyspace.episode(id),
        )
        assert sorted(jam._connection.redis_store.log_keys()) == sorted(keys)
        assert jam.episodes().ids() == [id]
        assert [one.tags for one in jam.episodes().summaries()] == [
            {"of": jam._connection.keyspace.namespace}
        ]
        assert [steps for _, steps in jam.tail(since=0, timeout_s=0.001)] != []
        assert [note["of"] for note in NoteHandler(jam, "same").many(9)] == [
            jam._connection.keyspace.namespace
        ]
        assert jam.backup.status().pending_logs == 2
        assert jam.backup.flush() == 4 + 1
        assert jam.backup.verify().logs == 2
        with pytest.raises(EpisodeNotFound):
            jam.episode(next(other for other in ids.values() if other != id)).data()
    assert len({jam.mongo.name for jam in jams}) == len(jams)
    assert_each_can_be_deleted_and_restored(ids)


def assert_each_can_be_deleted_and_restored(ids: dict[Jamboree, str]) -> None:
    def held() -> set[tuple[str, int]]:
        return {
            (jam._connection.keyspace.namespace, len(list(jam._connection.redis_store.log_keys())))
            for jam in ids
        }

    everything = held()
    for jam, id in ids.items():
        others = everything - {(jam._connection.keyspace.namespace, 2)}
        for key in list(jam._connection.redis_store.log_keys()):
            jam.redis.delete(at(jam, key))
        assert held() == others | {(jam._connection.keyspace.namespace, 0)}
        assert jam.backup.restore() == 2
        assert held() == everything
        jam.episode(id).delete()
        NoteHandler(jam, "same").delete()
        assert held() == others | {(jam._connection.keyspace.namespace, 0)}
        fill(jam)


@pytest.mark.parametrize("other", ["{}:b", "{}*", "{}b", "[{}]"])
def test_a_user_for_one_namespace_is_kept_out_of_the_other(
    valkey: Server, namespace: str, open_jamboree: Callable[..., Jamboree], other: str
) -> None:
    theirs = open_jamboree(namespace=other.format(namespace))
    id = fill(theirs)
    rules = ["reset", "on", ">SECRET", "+@all", f"~{namespace}:*", f"~{{{namespace}:*"]
    for server in servers(theirs):
        server.execute_command("ACL", "SETUSER", namespace, *rules)
    try:
        url = valkey.url.replace("://", f"://{namespace}:SECRET@")
        own = open_jamboree(url, write="sync")
        fill(own)
        intruder = open_jamboree(url, namespace=theirs._connection.keyspace.namespace, write="sync")
        for attempt in (
            lambda: intruder.episode(id).data(),
            lambda: intruder.episodes().ids(),
            lambda: intruder.episode(id).delete(),
            lambda: intruder._connection.redis_store.blobs.put("theirs", b""),
            lambda: NoteHandler(intruder, "same").delete(),
            lambda: list(intruder.tail(since=0, timeout_s=0.001)),
        ):
            with pytest.raises(StoreUnavailable, match="does not let this user do it"):
                attempt()
        own.close()
        intruder.close()
    finally:
        for server in servers(theirs):
            server.execute_command("ACL", "DELUSER", namespace)
    assert len(theirs.episode(id).data().rewards) == 3
    assert NoteHandler(theirs, "same").count() == 1
