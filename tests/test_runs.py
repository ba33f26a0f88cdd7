"""What is in a store, run by run, and names that are misspelt."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from recorded_envs import ACTION, CountingEnv, play
from stored import at, calls_by_command, keys_like

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.errors import (
    EpisodeInUse,
    EpisodeNotFound,
    InvalidArgument,
    JamboreeError,
    RunNotFound,
)
from jamboree_gym.reading.finding.known_ids import packed_ids
from jamboree_gym.reading.finding.names import ShortIds, short_ids
from jamboree_gym.runs.checkpoints import CheckpointHandler
from jamboree_gym.runs.metrics import MetricHandler
from jamboree_gym.runs.sessions import SessionHandler
from jamboree_gym.store.redis.link import Call
from jamboree_gym.tables.text_table import ago, html_table, text_table


def record(jam: Jamboree, run: str, steps: int = 3, **options: Any) -> str:
    """Record one episode that reaches its end; its id."""
    env = jam.record(CountingEnv(length=steps), run=run, **options)
    play(env, [ACTION] * steps)
    env.close()
    return env.episode_id


# -- jam.runs() ---------------------------------------------------------------------------------


def test_runs_come_in_the_order_in_which_they_were_written_last(jam: Jamboree) -> None:
    record(jam, "a")
    with pytest.raises(RunNotFound, match="there is 1 run, so there is none at 1"):
        jam.runs()[1]
    for run in ("b", "a"):
        record(jam, run)

    assert jam.runs().names() == ["b", "a"]
    assert [run.name for run in jam.runs()] == ["b", "a"]
    assert len(jam.runs()) == 2
    assert jam.runs()[-1].name == "a"
    assert [run.name for run in jam.runs()[:1]] == ["b"]
    with pytest.raises(RunNotFound, match="there are 2 runs, so there is none at 2"):
        jam.runs()[2]


def test_a_summary_counts_what_a_run_has(jam: Jamboree) -> None:
    for steps in (1, 2, 3):
        record(jam, "a", steps, tags={"lr": 0.1 * steps})
    summary = jam.run("a").summary

    assert (summary.name, summary.state, summary.episodes, summary.steps) == ("a", "stopped", 3, 6)
    episodes = jam.episodes(run="a").summaries()
    assert summary.mean_return == pytest.approx(sum(one.episode_return for one in episodes) / 3)
    assert summary.began_at == episodes[0].started_at
    assert summary.last_step_at == max(one.started_at + one.elapsed_s for one in episodes)
    assert summary.tags == {"lr": pytest.approx(0.3)}
    assert summary.checkpoints == 0


def test_the_mean_return_is_of_the_newest_ten_that_are_over(jam: Jamboree) -> None:
    for steps in range(1, 13):
        record(jam, "a", steps)
    env = jam.record(CountingEnv(length=50), run="a")
    play(env, [ACTION])
    returns = [one.episode_return for one in jam.episodes(run="a").summaries()]

    assert jam.run("a").summary.mean_return == pytest.approx(sum(returns[2:12]) / 10)


def test_the_mean_return_is_of_those_that_ended_last(jam: Jamboree) -> None:
    long = jam.record(CountingEnv(length=50), run="a")
    long.reset()
    for _ in range(12):
        record(jam, "a", 1)
    for _ in range(50):
        long.step(ACTION)

    assert jam.run("a").summary.mean_return == pytest.approx((1275 + 9) / 10)


def test_the_table_has_a_row_for_each_run(jam: Jamboree) -> None:
    record(jam, "a", tags={"lr": 0.5, "branch": "main"})
    record(jam, "b")
    rows = jam.runs().table().to_pylist()

    assert [row["run"] for row in rows] == ["a", "b"]
    assert [row["state"] for row in rows] == ["stopped", "stopped"]
    assert [row["tag_branch"] for row in rows] == ["main", None]
    assert jam.runs().table().schema.equals(jam.runs().table().schema)


def test_an_empty_store_has_a_table_without_rows(jam: Jamboree) -> None:
    assert jam.runs().table().num_rows == 0
    assert str(jam.runs()).startswith("no runs yet on ")


def test_printed_runs_fit_on_a_screen_and_the_newest_is_first(jam: Jamboree) -> None:
    for number in range(23):
        record(jam, f"run-{number:02}", 1)
    lines = str(jam.runs()).splitlines()

    assert lines[0].split()[:2] == ["run", "state"]
    assert lines[1].split()[:4] == ["run-22", "stopped", "1", "1"]
    assert len(lines) == 22
    assert lines[-1] == "... and 3 more"
    assert max(map(len, lines)) <= 100


def test_names_are_escaped_in_html(jam: Jamboree) -> None:
    record(jam, "<b>bold</b>")
    assert "<td>&lt;b&gt;bold&lt;/b&gt;</td>" in jam.runs()._repr_html_()
    assert "<td>&lt;b&gt;bold&lt;/b&gt;</td>" in jam.run("<b>bold</b>")._repr_html_()


def test_repr_reads_nothing(jam: Jamboree) -> None:
    runs = jam.runs()
    jam.close()
    assert "print them" in repr(runs)


def test_more_runs_take_no_more_round_trips(jam: Jamboree, sent: list[list[Call]]) -> None:
    def round_trips() -> int:
        jam.flush()
        sent.clear()
        jam.runs().table()
        return len(sent)

    record(jam, "run-0", 1)
    begin_session(jam, "run-0")
    jam.runs().table()
    of_one = round_trips()
    for number in range(1, 30):
        record(jam, f"run-{number}", 1)
        begin_session(jam, f"run-{number}")

    assert round_trips() <= of_one + 1  # their writers are told that somebody reads
    assert round_trips() <= of_one <= 12


# -- runs without episodes ----------------------------------------------------------------------


def begin_session(jam: Jamboree, run: str, name: str = "s") -> None:
    SessionHandler(jam, run).begin(name, timesteps=0, resumed_from=None, steps={}, info={})


def end_session(jam: Jamboree, run: str, name: str = "s") -> None:
    SessionHandler(jam, run).end(name, "finished", timesteps=9)


def put_checkpoint(jam: Jamboree, run: str) -> None:
    CheckpointHandler(jam, run).put(b"zip", timesteps=1, policy_version=1, session="s")


def put_metric(jam: Jamboree, run: str) -> None:
    MetricHandler(jam, run).put(1, session="s", values={"loss": 0.5})


PUTS = {"session": begin_session, "checkpoint": put_checkpoint, "metric": put_metric}


@pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
def test_a_run_without_episodes_is_there(jam: Jamboree, put: Any) -> None:
    put(jam, "a b:{c}")
    run = jam.run("a b:{c}")

    assert jam.runs().names() == ["a b:{c}"]
    assert run.summary.episodes == 0
    assert run.episodes.ids() == []
    assert len(run.history) == (put is begin_session)
    assert len(run.checkpoints()) == run.summary.checkpoints == (put is put_checkpoint)
    assert run.metrics().num_rows == (put is put_metric)
    assert list(jam.tail(run=run.name, timeout_s=0)) == []


def test_a_run_without_episodes_is_there_after_redis_was_emptied(jam: Jamboree) -> None:
    put_checkpoint(jam, "a")
    jam.backup.flush()
    jam.redis.flushdb()

    assert jam.runs().names() == ["a"]
    assert jam.run("a").summary.checkpoints == 1


def test_records_of_a_user_name_no_run(jam: Jamboree) -> None:
    class Notes(DBHandler):
        def __init__(self, jam: Jamboree) -> None:
            super().__init__(jam)
            self.entity = "run-note"
            self.required = {"run": str}
            self["run"] = "a"

    Notes(jam).save({"text": "hello"})
    assert jam.runs().names() == []


def test_a_checkpoint_that_was_deleted_twice_is_one_less(jam: Jamboree) -> None:
    for _ in range(3):
        put_checkpoint(jam, "a")
    first = jam.run("a").checkpoints()[0]
    first.delete()
    first.delete()

    assert jam.run("a").summary.checkpoints == len(jam.run("a").checkpoints()) == 2


# -- the state ----------------------------------------------------------------------------------


def test_a_run_is_running_while_an_episode_is(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=50), run="a")
    play(env, [ACTION])
    assert jam.run("a").state == "running"
    env.close()
    assert jam.run("a").state == "stopped"


def test_a_run_whose_newest_episode_was_cut_off_is_interrupted(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(jam, "a")
    env = jam.record(CountingEnv(length=50), run="a")
    play(env, [ACTION])
    monkeypatch.setattr(jam._connection, "dead", set)
    assert jam.run("a").state == "interrupted"


def test_a_session_that_goes_on_makes_a_run_running(jam: Jamboree) -> None:
    record(jam, "a")
    sessions = SessionHandler(jam, "a")
    sessions.begin("s", timesteps=0, resumed_from=None, steps={}, info={})
    assert jam.run("a").state == "running"
    sessions.end("s", "finished", timesteps=9)
    assert jam.run("a").state == "stopped"


def test_an_episode_that_was_cut_off_after_a_session_makes_a_run_interrupted(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_session(jam, "a")
    end_session(jam, "a")
    play(jam.record(CountingEnv(length=50), run="a"), [ACTION])
    monkeypatch.setattr(jam._connection, "dead", set)
    assert jam.run("a").state == "interrupted"


def test_an_episode_that_ended_after_a_session_that_was_cut_off_makes_a_run_stopped(
    jam: Jamboree, open_jamboree: Callable[..., Jamboree], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_session(jam, "a")
    jam.flush()
    monkeypatch.setattr(jam._connection, "dead", set)
    assert jam.run("a").state == "interrupted"
    record(open_jamboree(), "a")  # by another process than that of the session
    assert jam.run("a").state == "stopped"


def test_a_session_that_goes_on_beside_one_that_ended_makes_a_run_running(jam: Jamboree) -> None:
    begin_session(jam, "a", "first")
    begin_session(jam, "a", "second")
    end_session(jam, "a", "second")
    assert jam.run("a").state == "running"


# -- the newest steps of a run ------------------------------------------------------------------


def test_recent_steps_of_a_run_come_from_all_of_its_episodes(jam: Jamboree) -> None:
    first, second = record(jam, "a", 3), record(jam, "a", 2)
    found = [(episode.id, step.index) for episode, step in jam.run("a").recent(4)]
    assert found == [(first, 1), (first, 2), (second, 0), (second, 1)]


def test_recent_steps_of_more_episodes_than_are_read_at_once(jam: Jamboree) -> None:
    ids = [record(jam, "a", 1) for _ in range(40)]
    assert [episode.id for episode, _ in jam.run("a").recent(35)] == ids[5:]


@pytest.mark.parametrize("n", [0, 1, 99])
def test_recent_gives_as_many_steps_as_there_are(jam: Jamboree, n: int) -> None:
    record(jam, "a", 2)
    assert len(jam.run("a").recent(n)) == min(n, 2)


# -- misspelt runs ------------------------------------------------------------------------------

USES = {
    "len": lambda jam: len(jam.episodes(run="lander3")),
    "last": lambda jam: jam.episodes(run="lander3").last(),
    "where": lambda jam: jam.episodes().where(run="lander3").ids(),
    "of a cut": lambda jam: jam.episodes()[:2].where(run="lander3").ids(),
    "one of several": lambda jam: jam.episodes(run=["sac", "lander3"]).ids(),
    "table": lambda jam: jam.episodes(run="lander3").table(),
    "summary_table": lambda jam: jam.episodes(run="lander3").summary_table(),
    "tail": lambda jam: next(jam.tail(run="lander3", timeout_s=0), None),
    "history": lambda jam: jam.run("lander3").history,
    "info": lambda jam: jam.run("lander3").info,
    "metrics": lambda jam: jam.run("lander3").metrics(),
    "checkpoints": lambda jam: jam.run("lander3").checkpoints(),
    "checkpoint": lambda jam: jam.run("lander3").checkpoint(),
    "episodes": lambda jam: jam.run("lander3").episodes.ids(),
    "state": lambda jam: jam.run("lander3").state,
    "recent": lambda jam: jam.run("lander3").recent(3),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_misspelt_run_is_said_with_the_nearest_names_first(jam: Jamboree, use: Any) -> None:
    for run in ("sac", "lander", "lander2"):
        record(jam, run, 1)
    with pytest.raises(RunNotFound, match="no run 'lander3'; there are lander, lander2, sac"):
        use(jam)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_empty_store_says_that_it_is(jam: Jamboree, use: Any) -> None:
    with pytest.raises(RunNotFound, match=r"no run '(lander3|sac)': nothing has been recorded yet"):
        use(jam)


WAITING = {
    "len": lambda jam: len(jam.episodes(run="later", wait=True)) == 0,
    "where": lambda jam: jam.episodes(wait=True).where(run="later").ids() == [],
    "tail": lambda jam: list(jam.tail(run="later", timeout_s=0, wait=True)) == [],
    "history": lambda jam: jam.run("later", wait=True).history == [],
    "checkpoints": lambda jam: jam.run("later", wait=True).checkpoints() == [],
    "metrics": lambda jam: jam.run("later", wait=True).metrics().num_rows == 0,
    "episodes": lambda jam: jam.run("later", wait=True).episodes.ids() == [],
}


@pytest.mark.parametrize("use", WAITING.values(), ids=WAITING)
def test_a_run_that_is_to_come_is_empty_where_that_is_asked_for(jam: Jamboree, use: Any) -> None:
    record(jam, "sac", 1)
    assert use(jam)


def test_a_run_without_episodes_that_match_is_no_error(jam: Jamboree) -> None:
    record(jam, "a")
    assert jam.episodes(run="a", status="truncated").ids() == []
    assert jam.run("a").history == []


def test_several_runs_are_read_together(jam: Jamboree) -> None:
    ids = {run: record(jam, run) for run in ("a", "b", "c")}
    assert jam.episodes(run=["a", "c"]).ids() == [ids["a"], ids["c"]]
    assert {episode.id for episode, _ in jam.tail(run=["c", "a"], since=0, timeout_s=0)} == {
        ids["a"],
        ids["c"],
    }


def test_the_way_to_wait_is_a_note_of_the_error(jam: Jamboree) -> None:
    with pytest.raises(RunNotFound) as error:
        jam.episodes(run="later").ids()
    assert error.value.__notes__ == ["wait=True waits for a run that is to come"]


def test_a_long_name_is_shortened(jam: Jamboree) -> None:
    record(jam, "x" * 300)
    with pytest.raises(RunNotFound) as error:
        jam.episodes(run="y" * 300).ids()
    assert len(str(error.value)) < 200


# -- ids ----------------------------------------------------------------------------------------


def test_an_episode_is_found_by_the_beginning_of_its_id(jam: Jamboree) -> None:
    id = record(jam, "a")
    assert jam.episode(id[:6]).id == jam.episode(id).id == id
    assert jam.episodes().episode(id[:6]).id == id
    assert jam.recent([id[:6]], 1)[0].indices.tolist() == [2]
    assert not jam.diff(id[:6], jam.episode(id))
    assert jam.episodes().where(parent=id[:6]).ids() == []


def test_a_beginning_that_several_ids_have_names_some(jam: Jamboree) -> None:
    ids = sorted(record(jam, "a") for _ in range(5))
    with pytest.raises(EpisodeNotFound, match=r"5 episodes begin with .*and 2 more") as error:
        jam.episode(ids[0][:3])
    assert ids[0] in str(error.value)


def test_a_full_id_asks_the_server_nothing(jam: Jamboree) -> None:
    id = record(jam, "a")
    jam.flush()
    before = calls_by_command(jam)
    jam.episode(id)
    assert set(calls_by_command(jam) - before) == {"info"}


def test_an_id_that_is_a_name_is_taken_as_it_is(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound, match="no episode 'mine'"):
        jam.episode("mine").data()
    with pytest.raises(InvalidArgument, match="empty"):
        jam.episode("")


def test_restoring_takes_episodes_and_beginnings_of_ids(jam: Jamboree) -> None:
    id = record(jam, "a")
    jam.backup.flush()
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(id)))
    assert jam.backup.restore([id[:6]]) == 1
    with pytest.raises(JamboreeError):
        jam.backup.restore(["zz"])


def test_a_run_in_place_of_an_id_is_said(jam: Jamboree) -> None:
    record(jam, "lander")
    with pytest.raises(EpisodeNotFound, match=r"it is a run: jam\.run\('lander'\)"):
        jam.episode("lander").data()


# -- membership ---------------------------------------------------------------------------------


def test_runs_and_episodes_are_found_with_in(jam: Jamboree) -> None:
    id = record(jam, "a")
    episode = jam.episodes().last()

    assert "a" in jam.runs()
    assert jam.run("a") in jam.runs()
    assert "b" not in jam.runs()
    assert id in jam.episodes()
    assert episode in jam.episodes()
    assert episode in list(jam.episodes())
    assert episode not in jam.episodes(min_return=1e9)


def test_two_that_name_the_same_are_equal(jam: Jamboree) -> None:
    id = record(jam, "a")
    with Jamboree(jam._connection.redis_url) as other:
        assert jam.episode(id) == jam.episode(id)
        assert jam.run("a") == jam.run("a")
        assert jam.episode(id) != other.episode(id)
        assert jam.run("a") != other.run("a")
    assert len({jam.episode(id), jam.episode(id), jam.run("a"), jam.run("a")}) == 2
    assert jam.episode(id) != id


# -- tables for people --------------------------------------------------------------------------


def test_a_table_aligns_numbers_and_shortens_long_cells() -> None:
    text = text_table({"name": ["a", "b" * 50], "n": [5, 12345]}, rows=2)
    assert text.splitlines() == [
        "name                                   n",
        "a                                      5",
        f"{'b' * 29}...  12,345",
    ]


def test_a_table_without_rows_has_its_head() -> None:
    assert text_table({"name": [], "n": []}, rows=0) == "name  n"
    assert html_table({"name": []}, rows=0).endswith("<tbody></tbody></table>")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (-5, "0 s ago")],
)
def test_a_time_is_said_in_a_fitting_unit(seconds: float, text: str) -> None:
    now = time.time()
    assert ago(now - seconds, now) == text
    assert ago(None, now) == "-"
    assert len(ago(now - 9e5, now)) == len("2026-01-01")


# -- runs that go -------------------------------------------------------------------------------


def test_a_run_is_gone_with_its_last_episode(jam: Jamboree) -> None:
    ids = [record(jam, "a") for _ in range(3)]
    record(jam, "b")
    for id in ids[:2]:
        jam.episode(id).delete()
    assert jam.runs().names() == ["a", "b"]
    jam.episode(ids[2]).delete()
    assert jam.runs().names() == ["b"]
    record(jam, "a")
    assert jam.runs().names() == ["b", "a"]


def test_a_run_with_a_session_a_metric_or_a_checkpoint_stays(jam: Jamboree) -> None:
    SessionHandler(jam, "told").begin("s1", timesteps=0, resumed_from=None, steps={}, info={})
    MetricHandler(jam, "measured").put(1, session="s1", values={"loss": 1.0})
    CheckpointHandler(jam, "kept").put(b"zip", timesteps=1, policy_version=1, session="s1")
    jam.flush()
    for run in ("told", "measured", "kept"):
        jam.episode(record(jam, run)).delete()
    assert sorted(jam.runs().names()) == ["kept", "measured", "told"]
    MetricHandler(jam, "measured").delete()
    assert sorted(jam.runs().names()) == ["kept", "told"]


def test_a_run_goes_whole(jam: Jamboree) -> None:
    parent = record(jam, "a")
    fork = jam.episode(parent).fork(1, make=lambda: CountingEnv(length=3))
    fork.step(ACTION)
    fork.close()
    SessionHandler(jam, "a").begin("s1", timesteps=0, resumed_from=None, steps={}, info={})
    SessionHandler(jam, "a").end("s1", "finished", timesteps=3)
    MetricHandler(jam, "a").put(1, session="s1", values={"loss": 1.0})
    for number in (1, 2):
        CheckpointHandler(jam, "a").put(b"zip", timesteps=number, policy_version=1, session="s1")
    jam.run("a").checkpoint(0).delete()
    jam.episode(parent).flag("odd")
    kept = record(jam, "b")
    jam.backup.flush()
    jam.run("a").delete()
    jam.backup.flush()

    assert jam.runs().names() == ["b"]
    assert jam.episodes(forks=True).ids() == [kept]
    assert not keys_like(jam.redis, f"*{jam._connection.keyspace.namespace}*run=a}}")
    with pytest.raises(RunNotFound):
        jam.run("a").delete()
    assert jam.backup.verify()


def test_a_run_that_is_running_does_not_go(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=5), run="a")
    play(env, [ACTION])
    with pytest.raises(EpisodeInUse, match="run 'a' is running: end the process"):
        jam.run("a").delete()
    assert len(jam.episodes(run="a")) == 1


def test_the_name_of_an_empty_run_of_an_older_release_goes(jam: Jamboree) -> None:
    id = record(jam, "a")
    jam.flush()
    listed = {key: jam.redis.zrange(key, 0, -1, withscores=True) for key in runs_of(jam)}
    jam.episode(id).delete()
    for key, names in listed.items():
        jam.redis.zadd(key, dict(names))
    assert jam.runs().names() == ["a"]
    jam.run("a").delete()
    assert jam.runs().names() == []


def test_an_id_is_shown_as_short_as_it_can_be_typed(jam: Jamboree) -> None:
    ids = [record(jam, run) for run in ("a", "b", "a")]
    shown = short_ids(jam._connection, ids)
    for id in ids:
        assert jam.episode(shown[id]).id == id
        assert len(shown[id]) >= 8
    assert jam.episode(f"{ids[1][:8]}..{ids[1][-20:]}").id == ids[1]


def test_a_short_id_has_no_more_digits_than_it_needs() -> None:
    known = sorted(["01a2298b0000", "01a2298b042c", "01a2298b0431", "02"])
    assert [ShortIds(packed_ids(known)).of(one) for one in known] == [
        *("01a2298b00", "01a2298b042", "01a2298b043", "02")
    ]
    alone = ShortIds(packed_ids(["01a2298b042c"]))
    assert alone.of("01a2298b042c") == "01a2298b"
    assert (
        ShortIds(packed_ids(["01a2298b042c"])).of(f"01a2298b043{'0' * 17}0007")
        == "01a2298b0430..0007"
    )
    at_once = [f"01a22a38ad8939a02648e84b2879000{n}" for n in range(3)]
    assert [ShortIds(packed_ids(at_once)).of(one) for one in at_once][1:] == [
        "01a22a38..0001",
        "01a22a38..0002",
    ]


def runs_of(jam: Jamboree) -> list[bytes]:
    return keys_like(jam.redis, f"{{{jam._connection.keyspace.namespace}:*}}:runs")
