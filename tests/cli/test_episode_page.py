"""`jamboree-gym show -o`: one HTML file that needs nothing else, and that obeys nothing stored."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from recorded_envs import ScriptedEnv
from recorded_store import Store, record_store

from jamboree_gym import Jamboree
from jamboree_gym.reading import episode_page
from jamboree_gym.reading.episode_page import write_page

EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x>"


class Page(HTMLParser):
    """Its tags and attributes; fails on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def store(valkey: Server, mongo: Server) -> Store:
    return record_store(valkey.url, mongo.url)


def test_it_has_summary_curves_steps_and_provenance(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "out" / "episode.html"
    id = store.objects("ls", "--run", "ppo")[0]["id"]
    done = store.run("show", id, "-o", path)
    assert (done.exit_code, done.stdout) == (0, f"{path}: 29 steps\n"), done.output
    text = path.read_text()
    page = Page(text)
    assert page.tags.count("svg") == 4  # return, reward, action, observation
    assert page.tags.count("polyline") == 3 + 4
    assert len(re.findall(r"<tr><td>\d+</td>", text)) == 29
    for part in (id, "ppo", "CartPole-v1", "terminated", "lr=0.001", "provenance", "gymnasium"):
        assert part in text
    again = store.run("show", id, "-o", path)
    assert (again.exit_code, "--overwrite replaces it" in again.stderr) == (1, True)
    assert store.run("show", id, "-o", path, "--overwrite").exit_code == 0
    assert [one.name for one in path.parent.iterdir()] == ["episode.html"]


def test_it_asks_nobody_for_anything_and_runs_no_script(jam: Jamboree, tmp_path: Path) -> None:
    env = jam.record(
        ScriptedEnv(rewards=[1.0, float("nan"), 2.0]), run=EVIL, tags={EVIL: EVIL, "n": "a\nb"}
    )
    env.reset(seed=1)
    for _ in range(3):
        env.step(env.action_space.sample())
    env.close()
    text = write_page(jam.episodes(run=EVIL).last(), tmp_path / "x.html").read_text()
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "a"} & set(page.tags)
    assert not {"src", "href", "onclick", "onload", "srcset"} & {
        name for name, _ in page.attributes
    }
    assert not re.search(r"url\(|@import", text)
    assert "default-src 'none'" in text
    assert "&lt;script&gt;alert(1)" in text


class Odd(gym.Env[Any, Any]):
    observation_space = gym.spaces.Dict(
        {"image": gym.spaces.Box(0, 255, (4, 4, 3), np.uint8), "text": gym.spaces.Text(9)}
    )
    action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        return self._seen(), float("inf"), False, False, {"note": EVIL}

    def _seen(self) -> Any:
        return {"image": np.zeros((4, 4, 3), np.uint8), "text": "hi"}


def test_what_cannot_be_drawn_is_left_out(jam: Jamboree, tmp_path: Path) -> None:
    env = jam.record(Odd(), run="odd")
    env.reset(seed=1)
    write_page(jam.episodes(run="odd").last(), tmp_path / "empty.html")
    env.step(np.zeros(2, np.float32))
    env.close()
    text = write_page(jam.episodes(run="odd").last(), tmp_path / "x.html").read_text()
    assert "no finite number" in text
    assert Page(text).tags.count("polyline") == 2  # of the action


def test_of_a_long_episode_the_curves_keep_their_peaks(
    jam: Jamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode_page, "POINTS", 10)
    monkeypatch.setattr(episode_page, "ROWS", 5)
    rewards = [0.0] * 100
    rewards[37], rewards[61] = 7.0, -3.0
    env = jam.record(ScriptedEnv(rewards=rewards), run="long")
    env.reset(seed=1)
    for _ in rewards:
        env.step(env.action_space.sample())
    env.close()
    text = write_page(jam.episodes(run="long").last(), tmp_path / "x.html").read_text()
    assert "reward: -3 to 7, 100 steps" in text
    (points,) = re.findall(r'aria-label="reward: .*?points="(.*?)"', text)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert len(heights) <= 20
    assert (min(heights), max(heights)) == (8.0, 122.0)
    assert "and 95 more steps, which are not in this file" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "out.txt"], "out.txt is no .html file"),
        (["-o", "out.html", "--json"], "choose one of -o and --json"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2(store: Store, arguments: list[str], said: str) -> None:
    failed = store.run("show", "@last", *arguments)
    assert (failed.exit_code, said in failed.stderr) == (2, True)


def test_a_file_that_cannot_be_written_is_said(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failed = store.run("show", "@last", "-o", tmp_path / "file" / "x.html")
    assert failed.exit_code == 1
    assert "cannot be written: " in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
