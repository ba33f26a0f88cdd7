"""A log that is read in parts is as it was when its first part was read, or is read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play

from jamboree_gym import Jamboree
from jamboree_gym.encoding.batch_format import batch_span
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.link import RedisLink


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is a part."""
    monkeypatch.setattr(scripts, "PART_BYTES", 1)


@pytest.fixture
def before_the_second_part(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something done once, when a first part has been read."""

    def put(act: Callable[[], object]) -> None:
        real, waiting = RedisLink.script, [act]

        def script(link: RedisLink, which: scripts.Script, *arguments: Any, **options: Any) -> Any:
            answer = real(link, which, *arguments, **options)
            if which is scripts.READ and answer is not None and len(answer) == 3 and waiting:
                waiting.pop()()
            return answer

        monkeypatch.setattr(RedisLink, "script", script)

    return put


def saved(jam: Jamboree, count: int) -> NoteHandler:
    notes = NoteHandler(jam, "n")
    for number in range(count):
        notes.save({"n": number})
        jam.flush()
    return notes


def test_what_was_popped_and_has_no_copy_yet_is_copied(jam: Jamboree) -> None:
    notes = saved(jam, 6)
    assert len(notes.pop(4)) == 4

    _, batches = jam._connection.redis_store.reader.unacked([notes._key])[notes._key]  # type: ignore[misc]
    assert [batch_span(batch)[:2] for batch in batches] == [(n, n + 1) for n in range(6)]
    assert jam.backup.flush() == 6
    assert jam.backup.verify()


def test_records_that_are_popped_between_two_parts_are_read_all_the_same(
    jam: Jamboree, before_the_second_part: Callable[..., None]
) -> None:
    notes = saved(jam, 6)
    other = NoteHandler(jam, "n")
    before_the_second_part(lambda: other.pop(4))
    assert [note["n"] for note in notes.many(6)] == list(range(6))
    assert [note["n"] for note in notes.many(6)] == [4, 5]


def test_an_episode_that_redis_lets_go_of_between_two_parts_is_read_where_it_is_now(
    jam: Jamboree, before_the_second_part: Callable[..., None]
) -> None:
    env = jam.record(CountingEnv(6))
    for action in [None, *[ACTION] * 6]:
        play(env, []) if action is None else env.step(action)
        jam.flush()
    jam.backup.flush()
    jam.backup.retain(max_redis_bytes=0)

    let_go: list[int] = []

    def trim() -> None:
        jam.backup.trim()
        head = jam._connection.redis_store.head(jam._connection.keyspace.episode(env.episode_id))
        let_go.append(0 if head is None else head.held)

    before_the_second_part(trim)
    data = jam.episode(env.episode_id).data()

    assert let_go == [6]
    assert data.observations[:, 0].tolist() == list(range(7))
