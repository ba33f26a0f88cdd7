"""Finding episodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from recorded_envs import ACTION, CountingEnv, play
from stored import listing_of

from jamboree_gym import Jamboree
from jamboree_gym.encoding.summary_codec import encode_summary
from jamboree_gym.errors import (
    DecodeError,
    EpisodeNotFound,
    InvalidArgument,
    InvalidExpression,
)


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


def test_episodes_that_began_at_once_come_in_the_order_of_their_ids(jam: Jamboree) -> None:
    summary = jam.episode(record(jam, run="a")).summary
    twins = [replace(summary, id=name, run="twins") for name in ("9", "c", "1", "b", "0")]
    for twin in twins:
        jam.redis.hset(listing_of(jam, "twins", twin.id), twin.id, encode_summary(twin))

    assert jam.episodes(run="twins").ids() == ["0", "1", "9", "b", "c"]


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
    with pytest.raises(InvalidArgument, match=r"'done'.*terminated, truncated"):
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
    pair = record(jam, tags={"pair": [np.array([1.0, 2.0]), "x"]})
    assert jam.episodes(tags={"pair": [np.array([1.0, 2.0]), "x"]}).ids() == [pair]
    assert jam.episodes(tags={"pair": [np.array([1.0, 3.0]), "x"]}).ids() == []


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
    with pytest.raises(InvalidArgument, match="limit=-1"):
        jam.episodes(limit=-1)


@pytest.mark.parametrize("which", ["first", "last"])
def test_no_match_is_an_error_that_repeats_the_question(jam: Jamboree, which: str) -> None:
    with pytest.raises(EpisodeNotFound, match="env_id='none'"):
        getattr(jam.episodes(env_id="none"), which)()


def test_no_match_is_an_empty_list(jam: Jamboree) -> None:
    assert list(jam.episodes()) == []
    assert jam.episodes().summaries() == []


def test_a_listing_agrees_with_the_episode_itself(jam: Jamboree) -> None:
    record(jam, steps=2, tags={"a": 1})

    (summary,) = jam.episodes().summaries()

    assert summary == jam.episode(summary.id).summary


# -- queries are chained ----------------------------------------------------------------------


def test_where_asks_for_all_of_it_and_leaves_the_query_as_it_was(jam: Jamboree) -> None:
    ids = [record(jam, run="a", steps=steps) for steps in (1, 2, 1)]
    query = jam.episodes(run="a")

    assert query.where(min_steps=2).ids() == [ids[1]]
    assert query.where(max_steps=1).ids() == [ids[0], ids[2]]
    assert query.where(max_steps=1).where(min_return=3.0).ids() == []
    assert query.where(min_return=1.0, max_return=1.0).ids() == [ids[0], ids[2]]
    assert query.ids() == ids


def test_where_by_the_times_of_two_episodes_includes_both(jam: Jamboree) -> None:
    ids = [record(jam) for _ in range(4)]
    times = [jam.episode(name).summary.started_at for name in ids]

    assert jam.episodes().where(since=times[1], until=times[2]).ids() == ids[1:3]


def test_where_of_two_runs_is_neither(jam: Jamboree) -> None:
    a, b = record(jam, run="a"), record(jam, run="b")

    assert jam.episodes().where(run="b").ids() == [b]
    assert jam.episodes(run="a").where(run="b").ids() == []
    assert jam.episodes()[:1].where(run="b").ids() == []
    assert jam.episodes()[:1].where(run="a").ids() == [a]


def test_where_any_test_of_a_summary_holds(jam: Jamboree) -> None:
    record(jam, tags={"lr": 0.1})
    wanted = record(jam, tags={"lr": 0.2})

    assert jam.episodes().where(lambda episode: episode.tags["lr"] > 0.1).ids() == [wanted]


def test_where_takes_an_expression_over_the_columns_of_the_summaries(jam: Jamboree) -> None:
    one = record(jam, tags={"lr": 0.1, "who": "a"})
    two = record(jam, steps=2, tags={"lr": 0.01}, ending="truncated")
    query = jam.episodes()

    assert query.where("steps == 2 or tag_who == 'a'").ids() == [one, two]
    assert query.where("tag_lr < 0.05 and episode_return >= 3").ids() == [two]
    assert query.where("not tag_who == 'a'").ids() == []  # a missing value is neither
    assert query.where("status == 'truncated'", max_steps=1).ids() == []
    assert repr(query.where("steps > 1", run="r")) == (
        "<episodes.where().where(run='r').where('steps > 1')>"
    )
    assert jam.episodes(run="later", wait=True).where("tag_none > 1").ids() == []
    with pytest.raises(InvalidExpression, match="no column 'step'; did you mean 'steps'"):
        query.where("step > 1").ids()
    with pytest.raises(InvalidExpression, match="no expression"):
        query.where("steps >")


def test_a_tag_is_compared_by_a_function_where_there_is_one(jam: Jamboree) -> None:
    record(jam, tags={"lr": 0.1})
    wanted = [record(jam, tags={"lr": lr}) for lr in (0.2, 0.3)]
    record(jam)

    assert jam.episodes(tags={"lr": lambda lr: lr >= 0.2}).ids() == wanted


def test_order_by_a_field_up_and_down(jam: Jamboree) -> None:
    ids = [record(jam, steps=steps) for steps in (2, 1, 2)]

    assert jam.episodes(order_by="episode_return").ids() == [ids[1], ids[0], ids[2]]
    assert jam.episodes().order_by("-episode_return").ids() == [ids[0], ids[2], ids[1]]


@pytest.mark.parametrize(("order", "expected"), [("tags.lr", [2, 0]), ("-tags.lr", [0, 2])])
def test_order_by_a_tag_puts_those_without_it_last(
    jam: Jamboree, order: str, expected: list[int]
) -> None:
    tags = ({"lr": 0.2}, {}, {"lr": 0.1}, {"lr": None}, {"lr": float("nan")})
    ids = [record(jam, tags=tag) for tag in tags]

    assert jam.episodes(order_by=order).ids() == [ids[i] for i in (*expected, 1, 3, 4)]


def test_order_by_seed(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    for seed in (3, None, 1):
        play(env, [ACTION], seed=seed)
    env.close()

    seeds = [summary.seed for summary in jam.episodes().order_by("seed").summaries()]

    assert seeds == [1, 3, None]


def test_an_order_that_does_not_exist_is_refused(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match=r"order_by='-speed'.*episode_return"):
        jam.episodes(order_by="-speed")
    record(jam, tags={"lr": 0.1})
    record(jam, tags={"lr": "low"})
    with pytest.raises(InvalidArgument, match=r"tags\.lr"):
        jam.episodes(order_by="tags.lr").ids()


def test_a_slice_is_a_query_and_a_position_an_episode(jam: Jamboree) -> None:
    ids = [record(jam, steps=steps) for steps in (1, 2, 1, 2)]
    query = jam.episodes()

    assert query[1:3].ids() == ids[1:3]
    assert query[::-1][:2].ids() == [ids[3], ids[2]]
    assert query[-1].id == ids[3]
    assert query[0].id == ids[0]
    with pytest.raises(EpisodeNotFound, match="none at 4"):
        query[4]


def test_a_slice_without_a_step_is_refused_at_once(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match="a step of 0"):
        jam.episodes()[::0]


def test_what_is_asked_is_carried_out_in_the_order_in_which_it_is_written(jam: Jamboree) -> None:
    ids = [record(jam, steps=steps) for steps in (1, 1, 2)]
    query = jam.episodes()

    assert query[:2].where(min_steps=2).ids() == []
    assert query.where(min_steps=2)[:2].ids() == [ids[2]]


def test_a_query_shows_what_is_asked(jam: Jamboree) -> None:
    query = jam.episodes(run="a").where(min_steps=2).order_by("-steps")[:3]

    assert repr(query) == "<episodes.where(run='a').where(min_steps=2).order_by('-steps')[:3]>"


# -- summaries as a table ---------------------------------------------------------------------


def test_the_table_of_summaries_says_what_the_summaries_say(jam: Jamboree) -> None:
    record(jam, steps=2, run="a", tags={"lr": 0.1})
    env = jam.record(CountingEnv())
    play(env, [ACTION], seed=7)
    jam.flush()

    table = jam.episodes().summary_table()

    for row, summary in zip(table.to_pylist(), jam.episodes().summaries(), strict=True):
        assert row.pop("episode_id") == summary.id
        assert row.pop("tag_lr") == summary.tags.get("lr")
        for name, value in row.items():
            assert value == getattr(summary, name), name
    assert table["seed"].to_pylist() == [None, 7]
    assert table["status"].to_pylist() == ["terminated", "running"]


def test_tags_are_columns_where_all_of_them_are_numbers_or_texts(jam: Jamboree) -> None:
    record(jam, tags={"lr": 1, "name": "a", "net": [1, 2], "mixed": 1, "opt": {"beta": 0.9}})
    record(jam, tags={"lr": 0.5, "mixed": "one"})

    table = jam.episodes().summary_table()

    tags = {name: table[name].to_pylist() for name in table.column_names if name[:4] == "tag_"}
    assert tags == {"tag_lr": [1.0, 0.5], "tag_name": ["a", None], "tag_opt.beta": [0.9, None]}


def test_the_table_of_no_episodes_has_the_columns_that_any_has(jam: Jamboree) -> None:
    empty = jam.episodes().summary_table()
    record(jam)

    assert empty.num_rows == 0
    assert empty.schema == jam.episodes().summary_table().schema


def test_a_listing_that_tells_of_more_steps_than_there_are_is_named(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(), run="lies")
    play(env, [ACTION] * 3)
    env.close()
    jam.flush()
    for steps in (7, 2**50):
        summary = replace(jam.episode(env.episode_id).summary, steps=steps)
        jam.redis.hset(
            listing_of(jam, "lies", env.episode_id), env.episode_id, encode_summary(summary)
        )

        with pytest.raises(DecodeError, match="is listed with"):
            jam.episodes(run="lies").table()
