"""Values of any class, wherever a value may stand: nothing is lost, and everything reads them."""

from __future__ import annotations

import http.client
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from lengths import examples
from odd_values import ALL, FRAME, HASHABLE, Broken, Cell, Color, Level, Point
from recorded_envs import CountingEnv, ScriptedEnv
from test_odd_exports import EXPORTS
from test_value_kinds import nested, same
from typer.testing import CliRunner

from jamboree_gym import DBHandler, Jamboree
from jamboree_gym.arrays.layout import as_array
from jamboree_gym.cli import app
from jamboree_gym.encoding.info_codec import holds_unrecorded
from jamboree_gym.page.serving import PageServer
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import ReplayEnv, replay_steps, verify

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

SEEN = spaces.Dict(odd=spaces.Sequence(spaces.Discrete(2)), said=spaces.Text(5))


class OddEnv(CountingEnv):
    """Observes and tells what it is given."""

    def __init__(self, value: Any = None) -> None:
        super().__init__(length=3)
        self.observation_space, self.action_space = SEEN, spaces.Text(5)
        self.value = value

    def observe(self) -> Any:
        return {"odd": self.value, "said": "a"}

    def info(self) -> dict[str, Any]:
        return {"odd": self.value, "count": self.count}


class Records(DBHandler):
    """Of anything."""

    def __init__(self, jam: Any = None) -> None:
        super().__init__(jam)
        self.entity, self.required = "odd", {"name": str}


def record(jam: Jamboree, value: Any) -> Episode:
    """An episode with the value in every place."""
    env = jam.record(
        gym.make("tests/Odd-v0", value=value), run=uuid.uuid4().hex, tags={"odd": value}
    )
    env.reset(seed=1, options={"odd": value})
    for _ in range(3):
        env.get_wrapper_attr("annotate")(odd=value)
        env.step(value)
    env.close()
    return jam.episode(env.get_wrapper_attr("episode_id"))


@pytest.fixture(scope="module", autouse=True)
def made() -> Any:
    gym.register("tests/Odd-v0", OddEnv, disable_env_checker=True)
    yield
    gym.registry.pop("tests/Odd-v0")


@pytest.mark.deep
@settings(
    max_examples=examples(40),
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
@given(value=nested.filter(lambda one: type(one) is not dict))
def test_a_value_comes_back_of_its_class_wherever_it_stood(jam: Jamboree, value: Any) -> None:
    episode = record(jam, value)

    data, summary = episode.data(), episode.summary
    assert (summary.status, summary.steps) == ("terminated", 3)
    assert same(summary.tags["odd"], value)
    assert same(episode.origin.options["odd"], value)
    for one in (*data.observations["odd"], *(info["odd"] for info in data.infos)):
        assert same(one, value)
    for step in episode.steps():
        assert same(step.action, value)
        said = step.annotation["odd"]
        is_column = as_array(value) is not None and isinstance(value, (int, float, list, tuple))
        assert same(said, value) or (is_column and np.array_equal(said, value))
    records = Records(jam)
    records["name"] = episode.id
    records.save({"odd": value})
    assert same(records.last()["odd"], value)


def ask(page: Any, path: str, **values: Any) -> bytes:
    """The page's answer."""
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=30)
    try:
        connection.request("GET", f"{path}?{urlencode(values)}")
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, (path, content)
        return content
    finally:
        connection.close()


COMMANDS = [
    "ls --run odd --json",
    "show EPISODE",
    "show EPISODE --json",
    "show EPISODE -o page.html",
    "find EPISODE terminated --json",
    "find EPISODE terminated",
    "tail odd --since 0 --steps 3",
    "tail odd --since 0 --steps 3 --json",
    "diff EPISODE EPISODE",
    "replay EPISODE --recorded --speed max",
]


@pytest.mark.parametrize("name", [name for name in EXPORTS if name not in ("lerobot", "torchrl")])
def test_infos_of_any_class_stop_no_export(
    jam: Jamboree, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "out").mkdir()
    infos = [{"odd": value, "level": Level.HIGH} for value in [*ALL, torch.ones(2)]]
    env = jam.record(ScriptedEnv(infos=infos), run="told")
    env.reset(seed=1)
    for _ in infos[1:]:
        env.step(np.zeros(2, np.float32))
    env.close()

    EXPORTS[name](jam.episodes(run="told"), tmp_path / "out")

    episode = jam.episodes(run="told").last()
    assert episode.table()["info_level"].to_pylist() == [3] * len(infos[1:])


def test_everything_reads_an_episode_of_odd_values(
    jam: Jamboree, namespace: str, mongo: Any, as_in_a_shell: Path, monkeypatch: Any
) -> None:
    folder = as_in_a_shell
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    monkeypatch.setenv("JAMBOREE_MONGO_URL", mongo.url)
    values = [*ALL, {one: one for one in HASHABLE}, [Broken()], torch.ones(2)]
    env: Any = gym.make("tests/Odd-v0")
    env.unwrapped.length, env.unwrapped.value = len(values), values[0]
    env = jam.record(env, run="odd", tags={"level": Level.HIGH})
    env.reset(seed=1)
    for value in values:
        env.unwrapped.value = value
        env.get_wrapper_attr("annotate")(odd=value)
        env.step(value)
    env.close()
    jam.flush()
    query = jam.episodes(run="odd")
    episode = query.last()

    assert (episode.status, episode.summary.steps) == ("terminated", len(values))
    infos = episode.data().infos
    assert holds_unrecorded(infos[-2]["odd"][0])
    assert type(infos[-1]["odd"]) is torch.Tensor
    assert len(episode.table()) == len(episode.steps()) == len(values)
    assert episode.find(lambda step: step.info["odd"] is Color.RED).tolist() == [0]
    assert not episode.diff(episode)
    assert len(list(jam.episodes(tags={"level": 3}))) == 1
    for command in COMMANDS:
        words = command.replace("EPISODE", episode.id).split()
        done = CliRunner().invoke(app, [*words, "--namespace", namespace])
        assert done.exit_code == 0, (command, done.output, done.exception)
    with PageServer(jam, port=0).start() as page:
        for name in ("episode", "rows", "columns", "provenance"):
            assert ask(page, f"/api/{name}", id=episode.id)
    jam.backup.flush()
    assert jam.backup.verify()
    replayed = ReplayEnv(episode)
    replayed.reset()
    for _ in values:
        *_, info = replayed.step(replayed.recorded_action)
    assert type(info["odd"]) is torch.Tensor


@pytest.mark.parametrize("value", [Color.RED, Point(1, Cell(2)), FRAME, [*ALL]], ids=type)
def test_an_episode_of_odd_values_happens_again(jam: Jamboree, value: Any) -> None:
    episode = record(jam, value)

    for handed in ({}, {"env_kwargs": {"value": value}}):
        report = verify(episode, infos=True, **handed)
        assert report, str(report)
    assert all(replay_steps(episode))
    with episode.fork(2, record=False) as env:
        assert same(env.info["odd"], value)
