"""Makes the pictures of docs/page.md: `make screenshots`. It needs a Chromium."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from browser import open_browser  # noqa: E402 - it lies beside this script

import jamboree_envs  # noqa: E402, F401 - registers Balance
from jamboree_gym import Jamboree  # noqa: E402
from jamboree_gym.servers.embedded import stop_servers  # noqa: E402

IMAGES = HERE.parents[1] / "docs" / "images"
MOST_BYTES = 150_000
SIZE = {"width": 1280, "height": 820}
Policy = Callable[[Any, int], int]


def record(env: Any, episodes: int, policy: Policy, *, annotate: bool = False) -> None:
    """Some episodes, the n-th of them with seed n."""
    generator = np.random.default_rng(0)
    for number in range(episodes):
        observation, _ = env.reset(seed=number)
        done = False
        while not done:
            action = policy(observation, number)
            if annotate:
                share = float(1 / (1 + np.exp(-8 * (observation[2] + 0.5 * observation[3]))))
                value = 40 - 120 * abs(float(observation[2])) + float(generator.normal())
                env.annotate(value=value, probabilities=np.array([1 - share, share]))
            observation, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
    env.close()


def improving(speed: float) -> Policy:
    """Balances more and more often, instead of acting by chance."""
    generator = np.random.default_rng(1)

    def act(observation: Any, number: int) -> int:
        if generator.random() < min(0.97, 0.2 + number * speed):
            return int(observation[2] + 0.5 * observation[3] > 0)
        return int(generator.integers(2))

    return act


def fill(jam: Jamboree) -> dict[str, str]:
    """Records what the pictures show; the addresses of the views."""
    chance = np.random.default_rng(2)
    cartpole = gym.make("CartPole-v1", render_mode="rgb_array")
    balance = jam.record(gym.make("jamboree/Balance-v0"), run="balance")
    record(balance, 30, lambda observation, _: int(3 + observation // 4))
    record(
        jam.record(gym.make("CartPole-v1"), run="random"), 160, lambda *_: int(chance.integers(2))
    )
    record(
        jam.record(gym.make("CartPole-v1"), run="slow", tags={"lr": 0.0003}), 220, improving(0.003)
    )
    filmed = jam.record(cartpole, run="fast", tags={"lr": 0.001}, record_frames=20)
    record(filmed, 140, improving(0.006), annotate=True)
    parent = jam.run("fast").episodes.where("steps > 60").first()
    fork = parent.fork(30)
    done = False
    while not done:
        _, _, terminated, truncated, _ = fork.step(int(chance.integers(2)))
        done = terminated or truncated
    forked = fork.get_wrapper_attr("episode_id")
    fork.close()
    jam.flush()
    return {
        "runs": "?compare=fast%0Aslow%0Arandom",
        "run": "run?run=fast",
        "episode": f"episode?id={parent.id}&step=42&frames=simulated",
        "compare": f"compare?a={parent.id}&b={forked}",
    }


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="jamboree-page-"))
    try:
        with Jamboree(home=home, backup=False) as jam, jam.ui(port=0) as page:
            views = fill(jam)
            with open_browser() as browser:
                tab = browser.new_page(viewport=SIZE)
                for name, address in views.items():
                    tab.goto(page.url + address)
                    tab.locator(".u-over").first.wait_for()
                    tab.wait_for_timeout(1500)  # pictures and fonts
                    path = IMAGES / f"page-{name}.png"
                    tab.screenshot(path=path)
                    size = path.stat().st_size
                    print(f"{path.name}: {size:,} bytes")
                    assert size <= MOST_BYTES, "make the window smaller"
    finally:
        stop_servers(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
