"""A page of a recorded store, and questions to it over HTTP."""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import gymnasium as gym
import numpy as np

from jamboree_gym import Jamboree
from jamboree_gym.page.serving import PageServer


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass
class Asker:
    """Asks a page."""

    page: PageServer

    @property
    def address(self) -> str:
        return urlsplit(self.page.url).netloc

    def __call__(
        self,
        path: str,
        values: dict[str, Any] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        asked = f"{path}?{urlencode(values)}" if values else path
        try:
            connection.request(method, asked, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def api(self, name: str, **values: Any) -> Any:
        """The answer to a question that has one."""
        answer = self(f"/api/{name}", values)
        assert answer.status == 200, (name, answer.status, answer.content[:500])
        return answer.json

    def columns(self, **values: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Header and columns of an episode."""
        content = self("/api/columns", values).content
        (length,) = struct.unpack_from("<I", content)
        header = json.loads(content[4 : 4 + length])
        numbers = np.frombuffer(content, "<f4", offset=4 + length)
        columns = np.split(numbers, len(header["columns"])) if header["columns"] else []
        return header, {
            one["name"]: part for one, part in zip(header["columns"], columns, strict=True)
        }

    def post(self, path: str, values: dict[str, Any], body: Any, **headers: str) -> Answer:
        """As the page itself does it."""
        usual = {"Origin": f"http://{self.address}", "Host": self.address}
        content = json.dumps(body).encode()
        return self(path, values, method="POST", body=content, headers=usual | headers)

    @contextmanager
    def events(self, **values: Any) -> Iterator[Iterator[tuple[str, Any]]]:
        """Server-sent events: name and content."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        connection.request("GET", f"/api/changes?{urlencode(values)}")
        response = connection.getresponse()
        assert response.status == 200

        def read() -> Iterator[tuple[str, Any]]:
            name = ""
            while line := response.readline():
                text = line.decode().rstrip("\n")
                if text.startswith("event: "):
                    name = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    yield name, json.loads(text.removeprefix("data: "))

        try:
            yield read()
        finally:
            connection.close()


def play(env: gym.Env[Any, Any], episodes: int = 1, *, seed: int = 0) -> list[str]:
    """Record some episodes with actions that a seed decides; their ids."""
    generator, ids = np.random.default_rng(seed), []
    actions: Any = env.action_space
    actions.seed(seed)
    for number in range(episodes):
        env.reset(seed=seed + number)
        ids.append(env.get_wrapper_attr("episode_id"))
        done = False
        while not done:
            action = (
                int(generator.integers(actions.n)) if hasattr(actions, "n") else actions.sample()
            )
            _, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
    env.close()
    return ids


class ImageEnv(gym.Env):
    """Observes a picture and a number."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Dict(
            {
                "image": gym.spaces.Box(0, 255, (16, 20, 3), np.uint8),
                "speed": gym.spaces.Box(-1, 1, (), np.float32),
            }
        )
        self.action_space = gym.spaces.Discrete(2)

    def observe(self) -> dict[str, np.ndarray]:
        image = self.np_random.integers(0, 256, (16, 20, 3), np.uint8)
        return {"image": image, "speed": np.float32(0.5)}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action: int) -> tuple:
        self.count += 1
        return self.observe(), 0.0, False, self.count == 6, {}


SURPRISE = (2, 3)  # the episode and the step of `trained` whose value is most wrong
DISCOUNT = 0.9


def record_training(jam: Jamboree) -> list[str]:
    """A run whose first training fails, with values, metrics and checkpoints; ids of episodes."""
    from jamboree_gym.runs.checkpoints import CheckpointHandler
    from jamboree_gym.runs.metrics import MetricHandler
    from jamboree_gym.runs.sessions import SessionHandler

    sessions = SessionHandler(jam, "trained")
    training = {"algorithm": "PPO", "hyperparameters": {"gamma": DISCOUNT, "n_steps": 64}}
    ids, steps = [], 0
    env = jam.record(gym.make("CartPole-v1"), run="trained")
    for session, how in (("s1", "raised"), ("s2", "finished")):
        sessions.begin(session, timesteps=steps, resumed_from=None, steps={}, info=training)
        for _ in range(2):
            env.reset(seed=len(ids))
            ids.append(env.get_wrapper_attr("episode_id"))
            done, step = False, 0
            while not done:
                is_odd = (len(ids) - 1, step) == SURPRISE
                env.annotate(value=50.0 if is_odd else 5.0, probabilities=np.array([0.25, 0.75]))
                _, _, terminated, truncated, _ = env.step(step % 2)
                done, step = terminated or truncated, step + 1
            steps += step
        jam.flush()
        sessions.end(session, how, timesteps=steps)
        values = {"train/loss": 0.25 / len(ids), "rollout/ep_rew_mean": 20.5}
        MetricHandler(jam, "trained").put(steps, session=session, values=values)
        CheckpointHandler(jam, "trained").put(
            b"zip", timesteps=steps, policy_version=len(ids), session=session
        )
    env.close()
    return ids


def record_some(jam: Jamboree) -> dict[str, list[str]]:
    """Runs with everything that the page shows; the ids of their episodes."""
    import jamboree_envs  # noqa: F401 - registers Balance

    framed = gym.make("CartPole-v1", render_mode="rgb_array")
    ids = {
        "plain": play(jam.record(gym.make("CartPole-v1"), run="plain", tags={"lr": 0.5}), 30),
        "framed": play(jam.record(framed, run="framed", record_frames=4), 2),
        "balance": play(jam.record(gym.make("jamboree/Balance-v0"), run="balance"), 3),
        "dict": play(jam.record(ImageEnv(), run="dict"), 1),
        "trained": record_training(jam),
    }
    parent = jam.episode(ids["plain"][0])
    forked = parent.fork(5)
    forked.step(int(1 - parent.data().actions[5]))
    ids["fork"] = [forked.get_wrapper_attr("episode_id")]
    forked.close()
    jam.flush()
    return ids
