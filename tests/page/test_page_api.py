"""What the server of the page answers: the same as the library, from a real store."""

from __future__ import annotations

import math
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from processes import wait_until
from proxy import Proxy, direct
from served_page import DISCOUNT, SURPRISE, Asker, ImageEnv, play, record_some
from stored import keys_like

from jamboree_gym import Episode, Jamboree
from jamboree_gym.page import app, pictures, serving
from jamboree_gym.page.answers import Answers
from jamboree_gym.page.columns import columns_of
from jamboree_gym.page.curves import histogram_of
from jamboree_gym.page.pictures import Simulations
from jamboree_gym.page.serving import PageServer
from jamboree_gym.page.surprises import value_errors
from jamboree_gym.replay import ReplayEnv
from jamboree_gym.store.mongo import client as mongo_client


@pytest.fixture(scope="module")
def jam(valkey: Server) -> Iterator[Jamboree]:
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    with Jamboree(valkey.url, namespace=namespace, backup=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def ids(jam: Jamboree) -> dict[str, list[str]]:
    return record_some(jam)


@pytest.fixture(scope="module")
def ask(jam: Jamboree, ids: dict[str, list[str]]) -> Iterator[Asker]:
    with PageServer(jam, port=0).start() as page:
        yield Asker(page)


# -- runs -----------------------------------------------------------------------------------


def test_runs_are_those_of_the_library_the_newest_first(ask: Asker, jam: Jamboree) -> None:
    found = ask.api("runs")
    assert [one["name"] for one in found["runs"]] == jam.runs().names()[::-1]
    for row in found["runs"]:
        summary = jam.run(row["name"]).summary
        shown = [row[name] for name in ("state", "episodes", "steps", "mean_return")]
        assert shown == [summary.state, summary.episodes, summary.steps, summary.mean_return]
        assert row["spark"]
        assert row["last_step_at"] == pytest.approx(summary.last_step_at)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"text": "LAI"}, ["plain"]),
        ({"env": "balance"}, ["balance"]),
        ({"text": "ain", "env": "cartpole"}, ["plain", "trained"]),
        ({"tag": "lr"}, ["plain"]),
        ({"tag": "lr=0.5"}, ["plain"]),
        ({"tag": "lr=1"}, []),
    ],
)
def test_runs_are_filtered(ask: Asker, asked: dict[str, str], names: list[str]) -> None:
    found = ask.api("runs", **asked)
    assert sorted(one["name"] for one in found["runs"]) == names
    assert found["total"] == 5


def test_a_run_has_outliers_distribution_and_counts(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    found = ask.api("run", run="plain")
    ordered = jam.run("plain").episodes.order_by("episode_return").ids()
    assert found["outliers"]["worst"]["id"] == ordered[0]
    best = jam.episode(found["outliers"]["best"]["id"]).summary.episode_return
    assert best == jam.episode(ordered[-1]).summary.episode_return
    assert sum(found["returns"]["counts"]) == 30
    assert found["statuses"] == {"terminated": 30}
    assert found["forks"] == 1
    assert found["tags"] == {"lr": 0.5}


def test_a_short_id_means_one_episode_of_the_whole_store(valkey: Server, namespace: str) -> None:
    with Jamboree(valkey.url, namespace=namespace, backup=False) as jam:
        ids = [
            play(jam.record(gym.make("CartPole-v1"), run=run))[0] for run in ("one", "other", "one")
        ]
        with PageServer(jam, port=0).start() as page:
            ask = Asker(page)
            shown = {
                row["id"]: row["short"]
                for run in ("one", "other")
                for row in ask.api("episodes", run=run, start=0, count=9)["episodes"]
            }
            outliers = ask.api("run", run="other")["outliers"]
            alone = ask.api("episode", id=ids[0])["short"]
        assert sorted(shown) == sorted(ids)
        for id, short in [*shown.items(), (ids[1], outliers["best"]["short"]), (ids[0], alone)]:
            assert len(short) < len(id)
            assert jam.episode(short).id == id


def test_a_curve_has_a_point_for_each_episode_and_continues(ask: Asker, jam: Jamboree) -> None:
    whole = ask.api("curve", run="plain")
    returns = [one.episode_return for one in jam.run("plain").episodes.summaries()]
    assert whole["mean"] == returns
    assert whole["steps"][-1] == jam.run("plain").summary.steps
    rest = ask.api("curve", run="plain", size=whole["size"], start=20)
    assert rest["start"] == 20
    assert rest["mean"] == returns[20:]
    assert rest["steps"] == whole["steps"][20:]


def test_a_run_has_its_training_and_where_it_was_cut_off(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    found = ask.api("run", run="trained")
    first, second = jam.run("trained").history
    assert [(one["how"], one["timesteps_to"]) for one in found["sessions"]] == [
        ("raised", first.timesteps_to),
        ("finished", second.timesteps_to),
    ]
    assert found["training"]["hyperparameters"] == {"gamma": DISCOUNT, "n_steps": 64}
    assert [one["number"] for one in found["checkpoints"]] == [0, 1]
    (mark,) = found["marks"]
    assert (mark["episode"], mark["steps"]) == (2, first.timesteps_to)
    metrics = ask.api("metrics", run="trained")["metrics"]
    assert metrics["train/loss"] == {
        "x": [first.timesteps_to, second.timesteps_to],
        "y": [0.25 / 2, 0.25 / 4],
    }


def test_the_most_surprising_step_is_where_the_value_was_most_wrong(
    ask: Asker, ids: dict[str, list[str]]
) -> None:
    found = ask.api("surprise", run="trained")
    episode, step = SURPRISE
    assert found["discount"] == DISCOUNT
    assert (found["surprise"]["id"], found["surprise"]["step"]) == (ids["trained"][episode], step)
    assert found["surprise"]["error"] == pytest.approx(1 + DISCOUNT * 5 - 50)
    assert ask.api("surprise", run="plain")["surprise"] is None


def test_an_episode_without_values_hides_no_surprise(ask: Asker, jam: Jamboree) -> None:
    env = jam.record(gym.make("CartPole-v1"), run="last")
    for value in (3.0, None):
        env.reset(seed=1)
        for _ in range(2):
            if value is not None:
                env.annotate(value=value)
            env.step(0)
    env.close()
    jam.flush()
    valued, plain = jam.episodes(run="last")
    assert ask.api("surprise", run="last")["surprise"]["id"] == valued.id
    valued.delete()
    plain.delete()


def test_after_a_terminal_step_nothing_is_expected_and_after_a_cut_nothing_is_known(
    jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    ended = value_errors(jam.episode(ids["trained"][0]).steps(), DISCOUNT)
    assert ended is not None
    assert ended[0] == pytest.approx(1 + DISCOUNT * 5 - 5)
    assert ended[-1] == 1 - 5
    env = jam.record(gym.make("CartPole-v1"), run="cut")
    env.reset(seed=1)
    for value in (4.0, 2.0, None, 3.0):
        if value is not None:
            env.annotate(value=value)
        env.step(0)
    env.close()
    episode = jam.episodes(run="cut").first()
    errors = value_errors(episode.steps(), 0.5)
    assert errors is not None
    assert errors[0] == 1 + 0.5 * 2 - 4
    assert np.isnan(errors[1:]).all()
    episode.delete()


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        (200.0 + np.array([0, 1, 2, 1, 0]) * np.spacing(200.0), [5]),  # equal but for rounding
        (200.0 + np.array([0, 4, 8]) * np.spacing(200.0), [1, 1, 1]),
        ([1e17, 1e17, math.nan], [2]),
        ([0.0, 1.0, 1.0, math.inf], [1, 2]),
        ([math.nan], []),
    ],
)
def test_a_distribution_has_bins_that_floats_can_tell_apart(
    values: list[float], counts: list[int]
) -> None:
    found = histogram_of(values)
    assert list(found["counts"]) == counts
    assert (np.diff(found["edges"]) > 0).all()


def test_a_run_that_is_not_there_is_answered_with_those_that_are(ask: Asker) -> None:
    answer = ask("/api/run", {"run": "plane"})
    assert answer.status == 404
    assert "plain" in answer.json["error"]


# -- episodes -------------------------------------------------------------------------------


def test_episodes_are_filtered_and_sorted_as_the_library_does(ask: Asker, jam: Jamboree) -> None:
    where = "episode_return > 15 and seed < 20"
    found = ask.api("episodes", run="plain", where=where, sort="-episode_return", count=5)
    wanted = jam.episodes(run="plain").where(where).order_by("-episode_return")
    assert found["total"] == len(wanted)
    assert [one["id"] for one in found["episodes"]] == wanted[:5].ids()


def test_the_next_part_of_a_list_begins_where_the_first_one_ended(ask: Asker) -> None:
    whole = ask.api("episodes", run="plain", count=30)["episodes"]
    parts = [ask.api("episodes", run="plain", start=at, count=10)["episodes"] for at in (0, 10, 20)]
    assert [one["id"] for part in parts for one in part] == [one["id"] for one in whole]


def test_forks_are_shown_where_they_are_asked_for(ask: Asker, ids: dict[str, list[str]]) -> None:
    assert ask.api("episodes", run="plain")["total"] == 30
    with_forks = ask.api("episodes", run="plain", forks=1)["episodes"]
    assert ids["fork"][0] in [one["id"] for one in with_forks]


class PaysEnv(ImageEnv):
    """Pays what its reset is told."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        self.reward = (options or {})["reward"]
        return super().reset(seed=seed)

    def step(self, action: int) -> tuple:
        return self.observe(), self.reward, True, False, {}


def test_an_episode_without_a_return_is_the_last_also_after_an_infinite_one(
    ask: Asker, jam: Jamboree
) -> None:
    env = jam.record(PaysEnv(), run="infinite")
    for reward in (math.nan, -math.inf, 1.0, math.inf):
        env.reset(options={"reward": reward})
        env.step(0)
    env.close()
    episodes = list(jam.episodes(run="infinite"))
    for sort, order in (("episode_return", [1, 2, 3, 0]), ("-episode_return", [3, 2, 1, 0])):
        found = ask.api("episodes", run="infinite", sort=sort)["episodes"]
        assert [one["number"] - 1 for one in found] == order
    outliers = ask.api("run", run="infinite")["outliers"]
    assert [outliers[name]["id"] for name in ("best", "worst")] == [episodes[3].id, episodes[1].id]
    for one in episodes[1:]:
        one.delete()
    kept = Answers(jam).run("infinite")["outliers"]
    assert (kept["best"], kept["worst"], kept["longest"]["id"]) == (None, None, episodes[0].id)
    episodes[0].delete()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"where": "episode_retrun > 1"}, "did you mean 'episode_return'"),
        ({"where": "__import__('os')"}, "cannot be part of a condition"),
        ({"sort": "color"}, "choose one of"),
        ({"count": "100000"}, "at most"),
        ({"start": "x"}, "whole number"),
        ({"start": "-1"}, "at most"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_wrong(
    ask: Asker, asked: dict[str, str], words: str
) -> None:
    answer = ask("/api/episodes", {"run": "plain", **asked})
    assert answer.status == 400
    assert words in answer.json["error"]


def test_an_episode_that_is_not_there_is_not_found(ask: Asker) -> None:
    for name in ("episode", "columns", "rows", "provenance", "lineage", "neighbours"):
        assert ask(f"/api/{name}", {"id": "f" * 32}).status == 404, name


def test_the_neighbours_of_an_episode_are_those_of_its_run(
    ask: Asker, ids: dict[str, list[str]]
) -> None:
    found = ask.api("neighbours", id=ids["framed"][1])
    assert (found["before"], found["after"], found["number"]) == (ids["framed"][0], None, 2)


# -- steps ----------------------------------------------------------------------------------


def test_columns_are_the_numbers_of_the_episode(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    data = jam.episode(ids["plain"][3]).data()
    header, columns = ask.columns(id=ids["plain"][3])
    assert (header["total"], header["rows"], header["every"]) == (len(data), len(data) + 1, 1)
    assert np.array_equal(columns["reward"][:-1], data.rewards)
    assert np.array_equal(columns["action"][:-1], data.actions)
    assert np.isnan(columns["reward"][-1])
    observed = np.stack([columns[f"observation_{i}"] for i in range(4)], axis=1)
    assert np.array_equal(observed, data.observations)
    kinds = {one["name"]: one["kind"] for one in header["columns"]}
    assert (kinds["action"], kinds["observation_0"]) == ("choice", "number")


def test_columns_continue_where_the_page_is(ask: Asker, ids: dict[str, list[str]]) -> None:
    _, whole = ask.columns(id=ids["plain"][3])
    header, rest = ask.columns(id=ids["plain"][3], start=4)
    assert header["start"] == 4
    for name in whole:
        assert np.array_equal(rest[name], whole[name][4:], equal_nan=True), name


def test_a_large_episode_comes_as_lowest_and_highest_values(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = ids["plain"][3]
    data = jam.episode(id).data()
    monkeypatch.setattr(app, "columns_of", partial(columns_of, most_bytes=300))
    header, columns = ask.columns(id=id)
    every, rows = header["every"], len(data) + 1
    assert every > 1
    low, high = np.split(columns["observation_1"], 2)
    parts = [data.observations[at : at + every, 1] for at in range(0, rows, every)]
    assert low.tolist() == [part.min() for part in parts]
    assert high.tolist() == [part.max() for part in parts]


def test_columns_of_a_step_that_is_not_there_are_refused(
    ask: Asker, ids: dict[str, list[str]]
) -> None:
    answer = ask("/api/columns", {"id": ids["plain"][3], "start": 10_000})
    assert answer.status == 400


def test_an_episode_without_a_step_shows_what_its_reset_returned(ask: Asker, jam: Jamboree) -> None:
    env = jam.record(gym.make("CartPole-v1"), run="begun")
    observation, _ = env.reset(seed=5)
    header, columns = ask.columns(id=env.get_wrapper_attr("episode_id"))
    assert header["total"] == 0
    assert columns["observation_2"].tolist() == [observation[2]]
    assert ask.api("episode", id=env.get_wrapper_attr("episode_id"))["status"] == "running"
    env.close()
    jam.episodes(run="begun").first().delete()


def test_infos_and_annotations_are_columns_and_their_gaps_are_nan(
    ask: Asker, jam: Jamboree
) -> None:
    env = jam.record(gym.make("FrozenLake-v1"), run="said")
    env.reset(seed=1)
    env.annotate(value=0.25, probabilities=np.array([0.1, 0.9]))
    env.step(0)
    env.step(0)
    env.close()
    episode = jam.episodes(run="said").first()
    _, columns = ask.columns(id=episode.id)
    assert columns["annotation_value"].tolist()[0] == 0.25
    assert math.isnan(columns["annotation_value"][1])
    assert columns["annotation_probabilities_1"][0] == np.float32(0.9)
    assert columns["info_prob"][0] == np.float32(episode.data().infos[1]["prob"])
    episode.delete()


def test_rows_say_what_a_step_was_in_words(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    (row,) = ask.api("rows", id=ids["balance"][0], start=1, stop=2)["rows"]
    step = next(iter(jam.episode(ids["balance"][0]).steps(1, 2)))
    assert row["step"] == 1
    assert row["action"] == str(step.action)
    assert row["info"] == f"{{balance: {step.info['balance']}}}"


# -- pictures -------------------------------------------------------------------------------


def decoded(content: bytes) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), -1), cv2.COLOR_BGR2RGB)


def test_a_recorded_frame_comes_back_as_it_was(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    frames = dict(jam.episode(ids["framed"][0]).renders())
    answer = ask("/api/picture", {"id": ids["framed"][0], "kind": "recorded", "step": 6})
    assert answer.headers["x-step"] == "4"
    assert "immutable" in answer.headers["cache-control"]
    assert np.array_equal(decoded(answer.content), frames[4])


def test_a_frame_that_was_not_recorded_is_simulated_again(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    asked = {"id": ids["framed"][0], "kind": "simulated"}
    recorded = dict(jam.episode(ids["framed"][0]).renders())
    for step in (8, 4):  # also backwards
        answer = ask("/api/picture", {**asked, "step": step})
        assert np.array_equal(decoded(answer.content), recorded[step])
    env = ReplayEnv(jam.episode(ids["framed"][0]), render_mode="rgb_array", frames="simulated")
    env.reset()
    env.step(env.recorded_action)
    answer = ask("/api/picture", {**asked, "step": 1})
    assert np.array_equal(decoded(answer.content), env.render())
    env.close()
    assert ask("/api/picture", {**asked, "step": 10_000}).status == 422


def test_a_simulation_that_is_closed_before_its_first_frame_is_closed_after_it(
    jam: Jamboree, ids: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulations, used = Simulations(), []
    frame = pictures._Simulation.frame

    def after_another_thread_has_closed_it(one: pictures._Simulation, step: int) -> bytes:
        simulations.close()
        used.append(one)
        return frame(one, step)

    monkeypatch.setattr(pictures._Simulation, "frame", after_another_thread_has_closed_it)
    assert simulations.frame(jam.episode(ids["framed"][0]), 1)
    assert [one._env for one in used] == [None]


def test_an_episode_that_does_not_happen_again_shows_no_simulated_frame(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    other = jam.episode(ids["plain"][0]).data()
    env = jam.record(gym.make("CartPole-v1"), run="wrong")
    env.reset(seed=0)
    env.unwrapped.state = env.unwrapped.state + 0.01  # from here on it is another episode
    env.step(int(other.actions[0]))
    env.close()
    episode = jam.episodes(run="wrong").first()
    answer = ask("/api/picture", {"id": episode.id, "kind": "simulated", "step": 1})
    assert answer.status == 422
    assert "does not happen again" in answer.json["error"]
    episode.delete()


def test_where_no_frame_was_recorded_there_is_no_picture(
    ask: Asker, ids: dict[str, list[str]]
) -> None:
    answer = ask("/api/picture", {"id": ids["plain"][0], "kind": "recorded", "step": 0})
    assert answer.status == 204


def test_observed_images_are_pictures_and_no_columns(ask: Asker, jam: Jamboree) -> None:
    env = jam.record(ImageEnv(), run="image")
    first, _ = env.reset(seed=1)
    second, *_ = env.step(1)
    env.close()
    episode = jam.episodes(run="image").first()
    assert ask.api("episode", id=episode.id)["pictures"] == ["observation_image"]
    for step, seen in enumerate((first, second)):
        asked = {"id": episode.id, "kind": "observation_image", "step": step}
        assert np.array_equal(decoded(ask("/api/picture", asked).content), seen["image"])
    for step in (-1, 2, 10_000):  # a picture of another step would be kept by the browser for it
        asked = {"id": episode.id, "kind": "observation_image", "step": step}
        assert ask("/api/picture", asked).status == 400
    _, columns = ask.columns(id=episode.id)
    assert columns["observation_speed"].tolist() == [0.5, 0.5]
    assert "observation_image" not in columns
    episode.delete()


# -- two episodes, and their forks ----------------------------------------------------------


def test_a_fork_is_compared_from_the_reset_on(ask: Asker, ids: dict[str, list[str]]) -> None:
    found = ask.api("compare", a=ids["plain"][0], b=ids["fork"][0])
    assert found["common_steps"] == 5
    assert (found["divergence"]["step"], found["divergence"]["field"]) == (5, "action")
    assert (found["a"]["offset"], found["b"]["offset"]) == (0, 5)


def test_an_episode_is_equal_to_itself(ask: Asker, ids: dict[str, list[str]]) -> None:
    assert ask.api("compare", a=ids["plain"][0], b=ids["plain"][0])["divergence"] is None


def test_the_tree_of_forks_is_the_same_from_each_of_its_episodes(
    ask: Asker, ids: dict[str, list[str]]
) -> None:
    trees = [ask.api("lineage", id=id)["nodes"] for id in (ids["plain"][0], ids["fork"][0])]
    assert trees[0] == trees[1]
    assert [(one["id"], one["depth"]) for one in trees[0]] == [
        (ids["plain"][0], 0),
        (ids["fork"][0], 1),
    ]


# -- flags ----------------------------------------------------------------------------------


def test_flags_are_an_action_that_has_to_be_allowed(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]]
) -> None:
    answer = ask.post("/api/flags", {"id": ids["plain"][0]}, {"note": "odd"})
    assert answer.status == 403
    assert not jam.episode(ids["plain"][0]).flags()


def test_a_flag_is_kept_filtered_by_and_deleted(jam: Jamboree, ids: dict[str, list[str]]) -> None:
    id = ids["plain"][2]
    with PageServer(jam, port=0, allow_actions=True).start() as page:
        ask = Asker(page)
        assert ask.post("/api/flags", {"id": id}, {"note": "odd", "step": 3}).status == 200
        assert [str(one) for one in jam.episode(id).flags()] == ["step 3: odd"]
        (shown,) = ask.api("episode", id=id)["flags"]
        assert (shown["note"], shown["step"]) == ("odd", 3)
        found = ask.api("episodes", run="plain", flagged=1)["episodes"]
        assert [(one["id"], one["flagged"]) for one in found] == [(id, True)]
        assert ask.api("run", run="plain")["flagged"] == 1
        for wrong in (
            {"note": ""},
            {"note": 3},
            {"note": "x", "step": "y"},
            [1],
            {"note": "x" * 3000},
        ):
            assert ask.post("/api/flags", {"id": id}, wrong).status == 400, wrong
        deleted = ask(
            "/api/flags", {"id": id}, method="DELETE", headers={"Origin": f"http://{ask.address}"}
        )
        assert deleted.json == {"flags": []}
        assert ask.api("episodes", run="plain", flagged=1)["total"] == 0
        nested = ask(
            "/api/flags",
            {"id": id},
            method="POST",
            body=b"[" * 50_000,
            headers={"Origin": f"http://{ask.address}"},
        )
        assert nested.status == 400
    assert not jam.episode(id).flags()


def test_the_store_is_never_asked_by_the_thread_that_serves_all_tabs(
    ask: Asker, jam: Jamboree, ids: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    episode = Jamboree.episode

    def noting_its_thread(jam: Jamboree, id: str) -> Episode:
        threads.append(threading.current_thread().name)
        return episode(jam, id)

    monkeypatch.setattr(Jamboree, "episode", noting_its_thread)
    id = ids["dict"][0]
    ask.columns(id=id)
    ask.api("episode", id=id)
    ask("/api/picture", {"id": id, "kind": "observation_image", "step": 0})
    with ask.events(of="episode", id=id) as events:
        next(events)
    assert len(threads) >= 4
    assert "jamboree-page" not in threads


# -- what changes ---------------------------------------------------------------------------


def test_a_tab_is_told_what_is_new_of_a_run(
    open_jamboree: Callable[..., Jamboree], as_processes: None
) -> None:
    writer, reader = open_jamboree(backup=False), open_jamboree(backup=False)
    play(writer.record(gym.make("CartPole-v1"), run="live"), 2)
    writer.flush()
    with (
        PageServer(reader, port=0).start() as page,
        Asker(page).events(of="run", run="live") as found,
    ):
        name, first = next(found)
        assert (name, first["episodes"]) == ("change", 2)
        play(writer.record(gym.make("CartPole-v1"), run="live"), 1, seed=9)
        writer.flush()
        change: dict = {}
        while change.get("episodes") != 3:
            _, change = next(found)
        assert "tags" not in change  # only what is new


@pytest.mark.usefixtures("prompt_writer")
def test_a_tab_is_told_how_an_episode_grows(
    open_jamboree: Callable[..., Jamboree], as_processes: None
) -> None:
    writer, reader = open_jamboree(backup=False), open_jamboree(backup=False)
    env = writer.record(gym.make("CartPole-v1"), run="live")
    env.reset(seed=1)
    id = env.get_wrapper_attr("episode_id")
    env.step(0)
    writer.flush()
    with (
        PageServer(reader, port=0).start() as page,
        Asker(page).events(of="episode", id=id) as found,
    ):
        assert next(found)[1]["steps"] == 1
        env.step(1)
        change: dict = {}
        while change.get("steps") != 2:
            _, change = next(found)
        env.close()
        while change.get("status") != "abandoned":
            _, change = next(found)


def test_a_lost_redis_is_said_and_comes_back(
    start_own_redis: Callable[..., Server], namespace: str
) -> None:
    server = start_own_redis("valkey9", "--appendfsync", "always")
    with Jamboree(server.url, namespace=namespace, backup=False) as jam:
        play(jam.record(gym.make("CartPole-v1"), run="kept"), 2)
        jam.flush()
        with PageServer(jam, port=0).start() as page:
            ask = Asker(page)
            with ask.events(of="runs") as found:
                assert next(found)[0] == "change"
                server.kill()
                name, said = next(found)
                assert (name, said["away"]) == ("away", True)
                answer = ask("/api/runs")
                assert answer.status == 503
                assert "Redis does not answer" in answer.json["error"]
                assert "/" not in answer.json["error"]  # the path of its socket
                server.start()
                assert next(found)[0] == "back"
                assert [one["name"] for one in ask.api("runs")["runs"]] == ["kept"]


def test_a_lost_mongodb_is_said_where_it_is_needed(
    valkey: Server, mongo_line: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Jamboree(valkey.url, direct(mongo_line), namespace=namespace, backup=False) as jam:
        (id,) = play(jam.record(gym.make("CartPole-v1"), run="kept"), 1)
        jam.backup.flush()
        for key in keys_like(jam.redis, f"*:episode:{{{id}}}"):
            jam.redis.delete(key)  # as an eviction does
    mongo_line.lose_server()
    monkeypatch.setattr(mongo_client, "CONNECT_TIMEOUT_S", 0.2)
    with (
        Jamboree(valkey.url, direct(mongo_line), namespace=namespace, backup=False) as jam,
        PageServer(jam, port=0).start() as page,
    ):
        answer = Asker(page)("/api/columns", {"id": id})
        assert answer.status == 503
        assert "MongoDB does not answer" in answer.json["error"]
        assert Asker(page)("/api/runs").status == 200  # Redis alone knows this


def test_a_lost_folder_of_the_backup_is_not_taken_for_a_lost_redis(
    valkey: Server, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    monkeypatch.setenv("JAMBOREE_BACKUP_URL", folder.as_uri())  # nothing copies by itself
    with Jamboree(valkey.url, namespace=namespace) as jam:
        (id,) = play(jam.record(gym.make("CartPole-v1"), run="kept"), 1)
        jam.backup.flush()
        for key in keys_like(jam.redis, f"*:episode:{{{id}}}"):
            jam.redis.delete(key)
        folder.rename(tmp_path / "elsewhere")
        with PageServer(jam, port=0).start() as page:
            answer = Asker(page)("/api/columns", {"id": id})
        assert answer.status == 503
        assert "The folder of the backup does not answer" in answer.json["error"]


def test_a_page_that_is_closed_leaves_no_connection_open(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PageServer(jam, port=0).start() as page:
        server = page._server
        monkeypatch.setattr(server.config, "timeout_graceful_shutdown", 0)
        with socket.create_connection(("127.0.0.1", urlsplit(page.url).port)):
            wait_until(lambda: server.server_state.connections)
            (connection,) = server.server_state.connections
            # As one that is accepted just after the server has told all others to end.
            monkeypatch.setattr(connection, "shutdown", lambda: None)
            page.close()
            wait_until(lambda: connection.transport.get_extra_info("socket").fileno() == -1)


def test_a_page_that_is_closed_ends_what_its_tabs_listen_to(
    jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "STOP_TIMEOUT_S", 60.0)  # of a machine that is very busy
    with PageServer(jam, port=0).start() as page, Asker(page).events(of="runs") as found:
        monkeypatch.setattr(page._server.config, "timeout_graceful_shutdown", None)
        next(found)
        page.close()
        assert page._thread is not None
        assert not page._thread.is_alive()


# -- no path, no secret ---------------------------------------------------------------------


def test_no_answer_has_a_path_or_a_login(ask: Asker, ids: dict[str, list[str]]) -> None:
    id = ids["plain"][0]
    asked = [("provenance", {"id": id}), ("episode", {"id": id}), ("runs", {}), ("store", {})]
    path = re.compile(r"(?<![\w.])/(dev|home|root|tmp|usr|opt|work|var)/")
    for name, values in asked:
        text = ask(f"/api/{name}", values).content.decode()
        assert not path.search(text), (name, text)
        assert "redis.sock" not in text
