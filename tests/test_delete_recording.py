"""An episode is deleted while it is being recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import Server
from gymnasium.vector import SyncVectorEnv
from lengths import quick_and_long
from processes import wait_until
from recorded_envs import ACTION, CountingEnv, play
from stored import keys_like

from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeNotFound, UnsavedRecords

OpenJamboree = Callable[..., Jamboree]
MODES = ["buffered", "sync"]


class RenderedEnv(CountingEnv):
    """Shows a pixel."""

    render_mode = "rgb_array"

    def render(self) -> Any:
        return np.full((1, 1, 3), self.count, np.uint8)


def lengths(jam: Jamboree) -> list[int]:
    """Numbers of steps of all episodes."""
    jam.flush()
    return [summary.steps for summary in jam.episodes().summaries()]


def check_gone(jam: Jamboree, episode_id: str) -> None:
    """Nothing of the episode is left."""
    with pytest.raises(EpisodeNotFound):
        jam.episode(episode_id).data()
    left = [key.decode() for key in jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}:*")]
    assert [key for key in left if episode_id in key] == []


@pytest.mark.parametrize(
    ("write", "is_stored"),
    quick_and_long(product(MODES, [True, False]), quick=[("buffered", True), ("sync", False)]),
)
def test_a_deletion_ends_the_recording_of_the_episode_and_the_next_reset_begins_another(
    open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture, write: str, is_stored: bool
) -> None:
    jam = open_jamboree(write=write, flush_interval_s=0.05 if is_stored else 3600)
    env = jam.record(RenderedEnv(length=9), record_frames=1)
    env.reset()
    deleted = env.episode_id
    env.step(ACTION)
    if is_stored:
        jam.flush()
    jam.episode(deleted).delete()
    for _ in range(3):
        env.step(ACTION)
        assert lengths(jam) == []
    check_gone(jam, deleted)
    with pytest.raises(EpisodeNotFound):
        env.handler.recent(3)
    env.reset()
    env.step(ACTION)

    assert env.episode_id != deleted
    assert lengths(jam) == [1]
    assert [step for step, _ in jam.episode(env.episode_id).renders()] == [0, 1]
    check_gone(jam, deleted)
    assert caplog.records == []


def test_a_reset_right_after_the_deletion_begins_another(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    env = jam.record(CountingEnv())
    for _ in range(3):
        env.reset()
        jam.episode(env.episode_id).delete()
    env.reset()
    env.close()

    assert lengths(jam) == [0]


def test_no_row_is_written_any_more_once_the_deletion_was_noticed(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    env = jam.record(CountingEnv(length=100))
    play(env, [ACTION] * 3)
    held = env.handler.writing
    jam.episode(env.episode_id).delete()
    for _ in range(9):
        env.step(ACTION)

    assert env.handler.writing is None
    assert held is not None
    assert held.rows_put == 5  # the reset, three steps, and the one that noticed it


def test_the_other_sub_environments_go_on(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    envs = jam.record(SyncVectorEnv([lambda: CountingEnv(length=8)] * 3))
    actions = np.array([ACTION] * 3)
    envs.reset()
    envs.step(actions)
    jam.episode(envs.episode_ids[1]).delete()
    held = envs.handlers[1].writing
    for _ in range(6):
        envs.step(actions)
    assert held is not None
    assert held.rows_put <= 3  # nothing piles up
    assert lengths(jam) == [7, 7]
    for _ in range(4):  # the end, the reset, two more steps
        envs.step(actions)

    assert sorted(lengths(jam)) == [2, 2, 2, 8, 8]


def test_a_deleted_episode_does_not_come_back_from_a_thread_that_delivers(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree(flush_interval_s=0)
    env = jam.record(CountingEnv(length=10**6))
    for _ in range(30):
        env.reset()
        for _ in range(20):
            env.step(ACTION)
        jam.episode(env.episode_id).delete()
        for _ in range(5):
            env.step(ACTION)

    assert lengths(jam) == []
    assert keys_like(jam.redis, f"*{jam._connection.keyspace.namespace}:episode:*") == []


@pytest.mark.parametrize("write", MODES)
def test_a_deletion_by_another_process_is_noticed_and_said_once(
    open_jamboree: OpenJamboree, caplog: pytest.LogCaptureFixture, write: str
) -> None:
    jam, other = open_jamboree(write=write), open_jamboree()
    env = jam.record(CountingEnv(length=10**6))
    env.reset()
    env.step(ACTION)
    jam.flush()
    deleted = env.episode_id
    other.episode(deleted).delete()
    for _ in range(3):
        env.step(ACTION)
        assert lengths(jam) == []
    wait_until(lambda: env.handler.was_deleted)
    check_gone(jam, deleted)
    env.reset()
    env.step(ACTION)

    assert lengths(jam) == [1]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "was deleted while it was recorded" in caplog.text


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize("write", MODES)
def test_what_an_emptied_server_has_lost_is_still_said(
    own_valkey: Server, namespace: str, write: str
) -> None:
    jam = Jamboree(own_valkey.url, namespace=namespace, write=write, flush_interval_s=0.01)
    env = jam.record(CountingEnv(length=10**6))
    env.reset()
    jam.flush()
    jam.redis.flushall()
    lost = "the first 1 rows are no longer in Redis"
    with pytest.raises(EpisodeNotFound, match=lost):  # noqa: PT012 - which step, nobody knows
        while True:
            env.step(ACTION)
    env.reset()
    env.step(ACTION)
    env.close()
    with pytest.raises(UnsavedRecords, match=lost):
        jam.close()

    with Jamboree(own_valkey.url, namespace=namespace) as reader:
        assert lengths(reader) == [1]
