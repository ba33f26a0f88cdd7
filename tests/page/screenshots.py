"""Makes the pictures of docs/page.md: `make screenshots`. It needs a Chromium."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the model is small

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from page_tabs import open_browser  # noqa: E402 - it lies beside this script

import jamboree_envs  # noqa: E402, F401 - registers Balance
from jamboree_gym import Jamboree  # noqa: E402
from jamboree_gym.integrations.sb3.training.starting import train  # noqa: E402
from jamboree_gym.reading.episode import Episode  # noqa: E402
from jamboree_gym.servers.embedded import stop_servers  # noqa: E402

IMAGES = HERE.parents[1] / "docs" / "images"
MOST_BYTES = 160_000
SIZE = {"width": 1280, "height": 820}
NARROW = {"width": 390, "height": 844}
TIMESTEPS = 8_000
LAST_TO_COME = {"run?": "value off by", "episode?": "after the reset"}
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
    train(jam, "CartPole-v1", "ppo", TIMESTEPS, run="ppo", seed=1)
    filmed = jam.record(cartpole, run="fast", tags={"lr": 0.001}, record_frames=20)
    record(filmed, 140, improving(0.006), annotate=True)
    parent = jam.run("fast").episodes.where("steps > 60").first()
    forked = [continued(parent, step, chance) for step in (30, 45)]
    continued(jam.episode(forked[0]), 4, chance)
    parent.flag("leans to the left, and never comes back", step=42)
    jam.flush()
    balanced = jam.run("balance").episodes.order_by("-episode_return").first()
    return {
        "runs": "?compare=fast%0Aslow%0Arandom",
        "run": "run?run=ppo",
        "episode": f"episode?id={parent.id}&step=42&frames=simulated",
        "balance": f"episode?id={balanced.id}&step=40",
        "compare": f"compare?a={parent.id}&b={forked[0]}",
        "forks": f"lineage?id={forked[0]}",
    }


def continued(parent: Episode, step: int, chance: np.random.Generator) -> str:
    """A fork that is played to its end by chance; its id."""
    fork = parent.fork(step)
    done = False
    while not done:
        _, _, terminated, truncated, _ = fork.step(int(chance.integers(2)))
        done = terminated or truncated
    id = str(fork.get_wrapper_attr("episode_id"))
    fork.close()
    return id


def take(browser: Any, url: str, folder: Path, name: str, address: str, **look: Any) -> None:
    """Take the picture of a view."""
    context = browser.new_context(viewport=look["size"], color_scheme=look["scheme"])
    tab = context.new_page()
    tab.goto(url + address)
    tab.locator("[role=treeitem]" if name.startswith("forks") else ".u-over").first.wait_for()
    for of, text in LAST_TO_COME.items():
        if address.startswith(of):
            tab.get_by_text(text).first.wait_for()
    if "frames=simulated" in address:
        tab.get_by_text("simulated again and verified").wait_for()
    tab.wait_for_timeout(1500)  # pictures and fonts
    path = folder / f"page-{name}.png"
    tab.screenshot(path=path, full_page=look.get("is_whole", False))
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--all", type=Path, help="folder for each view, wide and narrow, light and dark"
    )
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="jamboree-page-"))
    try:
        with Jamboree(home=home, backup=False) as jam, jam.ui(port=0) as page:
            views = fill(jam)
            with open_browser() as browser:
                if asked.all:
                    asked.all.mkdir(parents=True, exist_ok=True)
                    for name, address in views.items():
                        for size in (SIZE, NARROW):
                            for scheme in ("light", "dark"):
                                named = f"{name}-{size['width']}-{scheme}"
                                take(
                                    browser, page.url, asked.all, named, address,
                                    size=size, scheme=scheme, is_whole=True,
                                )  # fmt: skip
                for name, address in views.items():
                    take(browser, page.url, IMAGES, name, address, size=SIZE, scheme="light")
                dark = views["episode"]
                take(browser, page.url, IMAGES, "dark", dark, size=SIZE, scheme="dark")
                take(browser, page.url, IMAGES, "narrow", views["run"], size=NARROW, scheme="light")
        for path in IMAGES.glob("page-*.png"):
            assert path.stat().st_size <= MOST_BYTES, f"make the window of {path.name} smaller"
    finally:
        stop_servers(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
