"""What `print` shows fits on a screen, and `repr` never fails."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from recorded_envs import ACTION, CountingEnv, play

from jamboree_gym import Jamboree
from jamboree_gym.records import brief
from jamboree_gym.replay import verify
from jamboree_gym.runs.sessions import SessionHandler

MAX_LINES, MAX_COLUMNS = 22, 150


def record(jam: Jamboree, episodes: int = 1, steps: int = 3, **options: Any) -> str:
    env = jam.record(CountingEnv(length=steps), **{"run": "r", **options})
    for _ in range(episodes):
        play(env, [ACTION] * steps)
    env.close()
    return env.episode_id


def shown_things(jam: Jamboree) -> dict[str, Any]:
    env = jam.record(gym.make("CartPole-v1"), run="cart")
    env.reset(seed=1)
    for number in range(8):
        env.step(number % 2)
    env.close()
    episode = jam.episode(env.episode_id)
    with episode.fork(3) as live:
        live.step(0)
        child = jam.episode(live.episode_id)
    sessions = SessionHandler(jam, "cart")
    sessions.begin("s", timesteps=0, resumed_from=None, steps={}, info={"hyper": "x" * 9999})
    jam.backup.flush()
    return {
        "jam": jam,
        "episode": episode,
        "fork": child,
        "query": jam.episodes(),
        "forks": jam.episodes(forks=True),
        "run": jam.run("cart"),
        "runs": jam.runs(),
        "run summary": jam.run("cart").summary,
        "session": jam.run("cart").history[-1],
        "summary": child.summary,
        "data": episode.data(),
        "transitions": episode.recent(5),
        "no transitions": episode.recent(0),
        "step": next(iter(episode.recent(1))),
        "diff": episode.diff(child),
        "what if": episode.what_if(3, lambda observation: 0, n=3),
        "verified": episode.verify(),
        "all verified": verify(jam.episodes()),
        "backup status": jam.backup.status(),
        "backup report": jam.backup.verify(),
        "policy": jam.backup.retention(),
        "trimmed": jam.backup.trim(),
        "would evict": jam.backup.would_evict(max_age_s=0.0),
    }


def test_what_is_printed_fits_on_a_screen(jam: Jamboree) -> None:
    record(jam, episodes=30)
    for name, thing in shown_things(jam).items():
        lines = str(thing).splitlines()
        assert len(lines) <= MAX_LINES, name
        assert max(map(len, lines)) <= MAX_COLUMNS, (name, lines)
        assert " object at 0x" not in str(thing), name


def test_repr_is_short_and_needs_no_server(jam: Jamboree) -> None:
    record(jam, episodes=30)
    things = shown_things(jam)
    jam.close()
    for name, thing in things.items():
        if name in ("summary", "run summary", "verified", "backup status", "policy"):
            continue  # plain records, whose repr has all fields
        assert len(repr(thing)) <= 2 * MAX_COLUMNS, name


def test_what_cannot_be_read_is_printed_with_the_reason(jam: Jamboree) -> None:
    id = record(jam)
    episode, run, query, runs = jam.episode(id), jam.run("r"), jam.episodes(run="r"), jam.runs()
    jam.close()
    assert repr(episode) == f"<Episode {id!r}>"
    assert str(episode).startswith(f"<Episode {id!r}>: this Jamboree is closed")
    assert repr(run) == "<run 'r'>"
    assert str(run).startswith("<run 'r'>: this Jamboree is closed")
    assert str(query).startswith("<episodes.where(run='r')>: this Jamboree is closed")
    assert query._repr_html_().startswith("&lt;episodes.where(run=")
    assert "this Jamboree is closed" in str(runs)
    assert "this Jamboree is closed" in runs._repr_html_()
    assert "this Jamboree is closed" in run._repr_html_()
    assert episode._repr_html_().startswith(f"&lt;Episode &#x27;{id}&#x27;&gt;: this Jamboree")


def test_a_query_shows_the_first_episodes_and_how_many_there_are(jam: Jamboree) -> None:
    id = record(jam, episodes=23)
    lines = str(jam.episodes()).splitlines()

    assert lines[0].split() == ["episode", "environment", "status", "steps", "return", "began"]
    assert lines[-1] == "... and 3 more"
    assert id in str(jam.episodes()[-1:])
    assert (
        str(jam.episodes(min_return=1e9))
        == "no episodes: <episodes.where(min_return=1000000000.0)>"
    )


def test_repr_of_a_query_has_all_that_was_asked(jam: Jamboree) -> None:
    query = jam.episodes(run="r", wait=True, forks=True)[:3]
    assert repr(query) == "<episodes(wait=True, forks=True).where(run='r')[:3]>"


def test_a_query_of_several_runs_shows_the_run(jam: Jamboree) -> None:
    record(jam)
    record(jam, run="<i>other</i>")
    assert "<i>other</i>" in str(jam.episodes())
    assert "<td>&lt;i&gt;other&lt;/i&gt;</td>" in jam.episodes()._repr_html_()
    assert "<td>&lt;i&gt;other&lt;/i&gt;</td>" in jam.episodes().last()._repr_html_()


def test_a_fork_says_from_where_its_return_counts(jam: Jamboree) -> None:
    things = shown_things(jam)
    text = f"1 step, return 1\n  counted from its fork, at step 3 of {things['episode'].id}"
    assert str(things["fork"]).endswith(text)
    assert "from step" in str(jam.episodes(forks=True)).splitlines()[0]


# -- the state of the backup --------------------------------------------------------------------


def test_the_status_names_the_host_and_says_how_far_behind_it_is(jam: Jamboree) -> None:
    record(jam)
    jam.flush()
    before = str(jam.backup.status())
    jam.backup.flush()
    after = str(jam.backup.status())

    assert "not copied: 4 records in 1 logs" in before
    assert "not copied: 0 records in 0 logs, 0 deletions; nothing is behind" in after
    assert "copied to: 127.0.0.1:" in after
    assert "follower" not in after


def test_nobody_copies_is_said_with_the_reason(jam: Jamboree) -> None:
    url = jam._connection.redis_url
    with Jamboree(url, namespace="elsewhere") as without:
        assert "copied by: nobody: there is no backup URL" in str(without.backup.status())
    with Jamboree(url, jam._connection.backup_url, namespace="elsewhere", backup=False) as off:
        assert "copied by: nobody: backup=False" in str(off.backup.status())


def test_who_copies_is_said_before_it_has_begun(jam: Jamboree) -> None:
    url = jam._connection.redis_url
    with Jamboree(url, jam._connection.backup_url, namespace="elsewhere", backup=True) as on:
        assert "copied by: a thread of this process" in str(on.backup.status())


# -- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((23, 4), np.float32), "float32 (23, 4)"),
        (np.array([0.5, 2.0]), "[0.5, 2. ]"),
        (np.float32(0.1), "0.1"),
        (np.int64(3), "3"),
        (True, "True"),
        ({"a": np.zeros(9), "b": 1}, "{a: float64 (9,), b: 1}"),
        ((1, "x" * 99), f"(1, '{'x' * 36}...)"),
        (dict.fromkeys("abcdef", 1), "{a: 1, b: 1, c: 1, d: 1, ...}"),
        (np.array(["a"], object), "object (1,)"),
    ],
)
def test_a_value_is_said_in_a_few_characters(value: Any, text: str) -> None:
    assert brief(value) == text
