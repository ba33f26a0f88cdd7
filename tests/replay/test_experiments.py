"""Forks are experiments: they are no data of the run that they come from, unless asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from jamboree_gym import Episode, Jamboree
from jamboree_gym.encoding.summary_codec import decode_summary, encode_summary
from jamboree_gym.integrations.rlds import to_rlds
from jamboree_gym.reading.query import EpisodeQuery
from jamboree_gym.replay import fork, verify, what_if


def play(env: gym.Env, steps: int) -> None:
    for number in range(steps):
        env.step(number % 2)


def record(jam: Jamboree, steps: int = 8) -> Episode:
    env = jam.record(gym.make("CartPole-v1"), run="r")
    env.reset(seed=1)
    play(env, steps)
    env.close()
    return jam.episode(env.episode_id)


def forked(episode: Episode, **options: Any) -> Episode:
    with fork(episode, 3, **options) as env:
        play(env, 2)
        return Episode(episode._connection, env.episode_id)


# What a user makes of a query; each returns something that has episodes, steps or rows.
USES: dict[str, Callable[[EpisodeQuery, Path], Any]] = {
    "len": lambda query, _: len(query),
    "ids": lambda query, _: query.ids(),
    "last": lambda query, _: query.last().id,
    "iterating": lambda query, _: [episode.id for episode in query],
    "summaries": lambda query, _: query.summaries(),
    "summary_table": lambda query, _: query.summary_table().to_pylist(),
    "table": lambda query, _: query.table().to_pylist(),
    "to_arrow": lambda query, folder: query.to_arrow(folder / "a.arrow", overwrite=True).stat(),
    "rlds": lambda query, _: sum(1 for _ in to_rlds(query)),
    "verify": lambda query, _: len(verify(query)),
    "slice": lambda query, _: query[-1:].ids(),
    "where": lambda query, _: query.where(min_steps=1).ids(),
    "order_by": lambda query, _: query.order_by("-steps").ids(),
}


@pytest.mark.parametrize("use", ["len", "ids", "last", "summaries", "table", "rlds", "verify"])
def test_forks_get_into_no_data_of_their_run(jam: Jamboree, use: str, tmp_path: Path) -> None:
    episode = record(jam)
    before = USES[use](jam.episodes(run="r"), tmp_path)
    forked(episode)
    what_if(episode, 3, lambda observation: 0, n=2, record=True)

    assert USES[use](jam.episodes(run="r"), tmp_path) == before
    assert USES[use](jam.run("r").episodes, tmp_path) == before
    assert USES[use](jam.episodes(), tmp_path) == before
    assert USES[use](jam.episodes(run="r", forks=True), tmp_path) != before


def test_every_way_to_read_a_query_leaves_forks_out(jam: Jamboree, tmp_path: Path) -> None:
    episode = record(jam)
    before = {
        name: use(jam.episodes(), tmp_path) for name, use in USES.items() if name != "to_arrow"
    }
    forked(episode)
    for name, found in before.items():
        assert USES[name](jam.episodes(), tmp_path) == found, name
        assert USES[name](jam.episodes(forks=True), tmp_path) != found, name


def test_a_run_counts_without_its_forks(jam: Jamboree) -> None:
    episode = record(jam)
    before = jam.run("r").summary
    forked(episode)
    after = jam.run("r").summary
    assert (after.episodes, after.steps, after.mean_return) == (
        before.episodes,
        before.steps,
        before.mean_return,
    )
    assert {one.id for one, _ in jam.run("r").recent(99)} == {episode.id}


def test_a_tail_leaves_forks_out(jam: Jamboree) -> None:
    episode = record(jam)
    child = forked(episode)

    def followed(**options: Any) -> set[str]:
        return {one.id for one, _ in jam.tail(since=0, timeout_s=0, **options)}

    assert followed() == {episode.id}
    assert followed(forks=True) == {episode.id, child.id}


def test_a_fork_that_is_put_into_another_run_is_data_of_that_run(jam: Jamboree) -> None:
    child = forked(record(jam), run="exp")
    grandchild = forked_again(child)

    assert jam.episodes(run="exp").ids() == [child.id]
    assert jam.episodes(run="exp", forks=True).ids() == [child.id, grandchild.id]
    assert jam.episodes(run="exp").where(parent=None).ids() == []
    assert child.id in jam.episodes().ids()


def forked_again(child: Episode) -> Episode:
    with fork(child, 1) as env:
        play(env, 1)
        return Episode(child._connection, env.episode_id)


def test_a_parent_finds_its_forks_and_none_finds_no_fork(jam: Jamboree) -> None:
    episode, other = record(jam), record(jam)
    child = forked(episode)

    assert jam.episodes().where(parent=episode).ids() == [child.id]
    assert jam.episodes().where(parent=episode.id).ids() == [child.id]
    assert jam.episodes(forks=True).where(parent=None).ids() == [episode.id, other.id]
    assert [one.id for one in episode.children] == [child.id]


def test_a_fork_knows_from_where_it_counts(jam: Jamboree) -> None:
    episode = record(jam)
    summary = forked(episode).summary

    assert (summary.parent, summary.fork_step, summary.parent_run) == (episode.id, 3, "r")
    assert summary.is_experiment
    assert summary.steps == 2
    assert not episode.summary.is_experiment


def test_a_fork_of_an_older_release_is_taken_for_one_of_its_run(jam: Jamboree) -> None:
    summary = forked(record(jam), run="exp").summary
    content = encode_summary(summary)
    # An older release wrote twelve values.
    import msgspec

    from jamboree_gym.encoding.batch_format import decode_note, encode_note

    values = msgspec.msgpack.decode(decode_note(content, where="here"))
    older = encode_note(msgspec.msgpack.encode(values[:12]))
    decoded = decode_summary(older, episode_id=summary.id, where="here")

    assert values[12:] == ["r", 3]
    assert decoded.parent == summary.parent
    assert (decoded.fork_step, decoded.parent_run) == (None, None)
    assert decoded.is_experiment


def test_an_episode_without_parent_is_stored_as_before(jam: Jamboree) -> None:
    import msgspec

    from jamboree_gym.encoding.batch_format import decode_note

    content = encode_summary(record(jam).summary)
    assert len(msgspec.msgpack.decode(decode_note(content, where="here"))) == 12


# -- methods of an episode ----------------------------------------------------------------------


def test_what_people_try_first_are_methods(jam: Jamboree, tmp_path: Path) -> None:
    env = jam.record(gym.make("CartPole-v1", render_mode="rgb_array"), run="r")
    env.reset(seed=1)
    play(env, 8)
    env.close()
    episode = jam.episode(env.episode_id)

    assert episode.verify()
    with episode.fork(3, run="exp") as live:
        play(live, 1)
        child = jam.episode(live.episode_id)
    assert len(episode.what_if(3, lambda observation: 0, n=2)) == 2
    assert episode.diff(child)
    assert str(episode.diff(child.id)) == str(jam.diff(episode, child))
    assert episode.video(tmp_path / "out.gif").frames == 9
