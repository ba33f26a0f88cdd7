"""Finding episodes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from recorded_envs import ACTION, CountingEnv, play

from jamboree_gym import Jamboree
from jamboree_gym.errors import DecodeError, EpisodeNotFound, InvalidRecord


def record(jam: Jamboree, steps: int = 1, ending: str = "terminated", **options: Any) -> str:
    """Record one episode; its id."""
    env = jam.record(CountingEnv(length=2, ending=ending), **options)
    play(env, [ACTION] * steps)
    env.close()
    return env.episode_id


def test_all_episodes_come_in_the_order_in_which_they_began(jam: Jamboree) -> None:
    ids = [record(jam, run=name) for name in ("b", "a", "b")]

    assert jam.episodes().ids() == ids
    assert [episode.id for episode in jam.episodes()] == ids
    assert [summary.id for summary in jam.episodes().summaries()] == ids
    assert len(jam.episodes()) == 3


def test_first_and_last(jam: Jamboree) -> None:
    ids = [record(jam) for _ in range(3)]

    assert jam.episodes().first().id == ids[0]
    assert jam.episodes().last().id == ids[-1]


def test_a_query_sees_what_was_recorded_after_it_was_made(jam: Jamboree) -> None:
    query = jam.episodes()
    assert len(query) == 0

    record(jam)
    assert len(query) == 1


def test_by_run(jam: Jamboree) -> None:
    record(jam, run="a")
    wanted = record(jam, run="b/c:{d}")

    assert jam.episodes(run="b/c:{d}").ids() == [wanted]
    assert jam.episodes(run="none").ids() == []


def test_by_environment(jam: Jamboree) -> None:
    record(jam)
    env = jam.record(gym.make("CartPole-v1"))
    env.reset()

    assert jam.episodes(env_id="CartPole-v1").ids() == [env.episode_id]


def test_by_status(jam: Jamboree) -> None:
    terminated = record(jam, steps=2)
    truncated = record(jam, steps=2, ending="truncated")
    abandoned = record(jam, steps=1)
    running = jam.record(CountingEnv())
    running.reset()

    found = {
        status: jam.episodes(status=status).ids()
        for status in ("terminated", "truncated", "abandoned", "running", "interrupted")
    }

    assert found == {
        "terminated": [terminated],
        "truncated": [truncated],
        "abandoned": [abandoned],
        "running": [running.episode_id],
        "interrupted": [],
    }


def test_a_status_that_does_not_exist_is_refused_with_those_that_do(jam: Jamboree) -> None:
    with pytest.raises(InvalidRecord, match=r"'done'.*terminated, truncated"):
        jam.episodes(status="done")


def test_by_tags(jam: Jamboree) -> None:
    small = record(jam, tags={"lr": 0.1, "net": [1, 2]})
    record(jam, tags={"lr": 0.2})
    record(jam)

    assert jam.episodes(tags={"lr": 0.1}).ids() == [small]
    assert jam.episodes(tags={"lr": 0.1, "net": [1, 2]}).ids() == [small]
    assert jam.episodes(tags={"lr": 0.1, "net": [3]}).ids() == []


def test_a_tag_that_is_none_is_not_a_tag_that_is_missing(jam: Jamboree) -> None:
    record(jam)
    tagged = record(jam, tags={"teacher": None})

    assert jam.episodes(tags={"teacher": None}).ids() == [tagged]


def test_a_tag_may_be_an_array(jam: Jamboree) -> None:
    tagged = record(jam, tags={"weights": np.array([1.0, 2.0])})

    assert jam.episodes(tags={"weights": np.array([1.0, 2.0])}).ids() == [tagged]
    assert jam.episodes(tags={"weights": np.array([1.0, 3.0])}).ids() == []
    assert jam.episodes(tags={"weights": 1.0}).ids() == []


def test_by_return(jam: Jamboree) -> None:
    record(jam, steps=1)
    better = record(jam, steps=2)

    assert jam.episodes(min_return=3.0).ids() == [better]


def test_by_time(jam: Jamboree) -> None:
    record(jam)
    later = record(jam)
    started_at = jam.episode(later).summary.started_at

    assert jam.episodes(since=started_at).ids() == [later]


def test_filters_are_combined(jam: Jamboree) -> None:
    record(jam, run="a", steps=2)
    wanted = record(jam, run="b", steps=2)
    record(jam, run="b", steps=1)

    assert jam.episodes(run="b", status="terminated").ids() == [wanted]


def test_a_limit_keeps_the_oldest(jam: Jamboree) -> None:
    ids = [record(jam) for _ in range(3)]

    assert jam.episodes(limit=2).ids() == ids[:2]
    assert jam.episodes(limit=0).ids() == []
    with pytest.raises(InvalidRecord, match="limit=-1"):
        jam.episodes(limit=-1)


@pytest.mark.parametrize("which", ["first", "last"])
def test_no_match_is_an_error_that_repeats_the_question(jam: Jamboree, which: str) -> None:
    with pytest.raises(EpisodeNotFound, match="run='none'"):
        getattr(jam.episodes(run="none"), which)()


def test_no_match_is_an_empty_list(jam: Jamboree) -> None:
    assert list(jam.episodes()) == []
    assert jam.episodes().summaries() == []


def test_a_listing_agrees_with_the_episode_itself(jam: Jamboree) -> None:
    record(jam, steps=2, tags={"a": 1})

    (summary,) = jam.episodes().summaries()

    assert summary == jam.episode(summary.id).summary


def test_a_damaged_listing_is_named(jam: Jamboree) -> None:
    name = record(jam, run="a")
    jam.flush()
    jam.redis.hset(jam.keyspace.summaries("a"), name, b"nonsense")

    with pytest.raises(DecodeError, match=name):
        jam.episodes().ids()
