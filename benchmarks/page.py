"""The page: how soon it shows 100,000 episodes, what a move costs, and what a tab costs a trainer.

Needs a Chromium, and `pip install playwright`. Each number is of a tab of a real browser. The page
runs in a separate process, as `jamboree-gym ui` does.

    python benchmarks/page.py --episodes 100000 --minutes 3

`--pairs 0` or `--minutes 0` leaves the part out that takes long.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import psutil
from _pairs import jamboree, machine, median
from playwright.sync_api import sync_playwright

from jamboree_gym import Jamboree

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
LONG = 10_000
SERVE = """
import sys
from jamboree_gym import Jamboree
from jamboree_gym.page.serving import PageServer

with Jamboree(sys.argv[1], backup=False) as jam:
    page = PageServer(jam, port=0)
    print(page.url, flush=True)
    page.run()
"""
TRAIN = """
import sys
import time
import gymnasium as gym
import numpy as np
from jamboree_gym import Jamboree

done = np.memmap(sys.argv[2], np.int64, "r+", shape=(2,))
weights = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
with Jamboree(sys.argv[1], backup=False) as jam:
    env = jam.record(gym.make("CartPole-v1"), run="trained")
    env.reset(seed=0)
    for number in range(10**9):
        seen = weights[0]
        for _ in range(20):  # what a policy and its updates cost, spread over the steps
            seen = np.tanh(weights @ seen)
        _, _, terminated, truncated, _ = env.step(int(seen[0] > 0) if number % 3 else number % 2)
        if terminated or truncated:
            env.reset()
        if number % 20 == 0:
            done[:] = number, time.process_time_ns()
"""
SETTLE_S, WINDOW_S = 2.0, 5.0
STEPS_OF_EPISODE = 50  # of the followed episode, for each short one: about a second
SCRUB = """async (moves) => {
  const slider = document.querySelector('[aria-label=Step]');
  const waits = [];
  for (let at = 0; at < moves; at += 1) {
    const began = performance.now();
    slider.value = (at * 7919) % 10000;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    waits.push(performance.now() - began);
  }
  return waits.sort((a, b) => a - b);
}"""


class Progress(NamedTuple):
    """How far a trainer is: when that was, steps, and nanoseconds of processor time."""

    at: float
    steps: int
    cpu_ns: int


class Taken(NamedTuple):
    """What a step took: seconds, and nanoseconds of the trainer's processor time."""

    s: float
    cpu_ns: float


class ShortEnv(gym.Env[np.ndarray, np.int64]):
    """An episode of a given length."""

    def __init__(self, length: int) -> None:
        self.observation_space = gym.spaces.Box(-2, 2, (8,), np.float32)
        self.action_space = gym.spaces.Discrete(4)
        self._length = length
        self._seen = np.zeros(8, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._count = 0
        return self._seen, {}

    def step(self, action):
        self._count += 1
        return self._seen, float(action), self._count >= self._length, False, {}


def play(env, episodes: int) -> None:
    choose = np.random.default_rng(0).integers
    for _ in range(episodes):
        env.reset()
        done = False
        while not done:
            _, _, done, _, _ = env.step(int(choose(4)))


@contextmanager
def served(jam: Jamboree) -> Iterator[tuple[str, psutil.Process]]:
    """The page in a separate process."""
    redis_url = f"unix://{jam._connection.store.where}"
    command = [sys.executable, "-c", SERVE, redis_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        yield opened
        opened.close()


def wait(tab: Any, script: str, timeout_s: float = 60) -> None:
    end = time.perf_counter() + timeout_s
    while not tab.evaluate(script):
        if time.perf_counter() > end:
            raise TimeoutError(script)
        time.sleep(0.005)


ROWS = "Boolean(document.querySelector(\"[data-row='0'] a\"))"


def many_episodes(jam: Jamboree, url: str, chromium: Any, number: int) -> None:
    """A run of many episodes: first paint, first rows, a filter, another order."""
    tab = chromium.new_page()
    for name in ("cold", "warm"):
        began = time.perf_counter()
        tab.goto(f"{url}run?run=many")
        wait(tab, ROWS)
        rows_s = time.perf_counter() - began
        paint_ms = tab.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        print(f"{number:,} episodes, {name}: first paint {paint_ms:.0f} ms, rows {rows_s:.2f} s")
    takes = []
    for least in range(5):
        where = f"episode_return > {least} and steps == 3"
        total = len(jam.episodes(run="many").where(where))
        began = time.perf_counter()
        field = tab.get_by_label("Filter: an expression over the columns")
        field.fill(where)
        field.press("Enter")
        wait(tab, f"document.querySelector('[role=table]')?.ariaRowCount === '{total + 1}'")
        takes.append(time.perf_counter() - began)
    print(f"a filter over them: {1000 * median(takes):.0f} ms")
    tab.close()


def moves(url: str, chromium: Any) -> None:
    """Moves through an episode of 10,000 steps."""
    with urllib.request.urlopen(f"{url}api/episodes?run=long") as answer:
        id = json.load(answer)["episodes"][0]["id"]
    tab = chromium.new_page()
    tab.goto(f"{url}episode?id={id}")
    wait(tab, f"document.querySelector('[aria-label=Step]')?.max === '{LONG}'")
    waits = tab.evaluate(SCRUB, 200)
    print(
        f"a move in {LONG:,} steps, event to painted frame: median {waits[100]:.0f} ms, "
        f"95 % within {waits[189]:.0f} ms"
    )
    tab.close()


@contextmanager
def training(redis_url: str) -> Iterator[Callable[[], Progress]]:
    """A trainer in a separate process, at full speed; returns how far it is."""
    with tempfile.NamedTemporaryFile() as shared:
        shared.write(bytes(16))
        shared.flush()
        process = subprocess.Popen([sys.executable, "-c", TRAIN, redis_url, shared.name])
        done = np.memmap(shared.name, np.int64, "r", shape=(2,))
        try:
            while not done[0]:
                time.sleep(0.01)
            yield lambda: Progress(time.perf_counter(), int(done[0]), int(done[1]))
        finally:
            process.terminate()
            process.wait()


def trainer_cost(redis_url: str, url: str, chromium: Any, pairs: int) -> None:
    """A trainer without and with a tab that follows it; and twice without, for the noise."""
    tab = chromium.new_page()

    def measured(where: str) -> Taken:
        tab.goto(where)
        time.sleep(SETTLE_S)
        before = now()
        time.sleep(WINDOW_S)
        after = now()
        steps = after.steps - before.steps
        return Taken((after.at - before.at) / steps, (after.cpu_ns - before.cpu_ns) / steps)

    taken: dict[str, list[Taken]] = {"alone": [], "again": [], "watched": []}
    with training(redis_url) as now:
        for number in range(pairs):
            for name in sorted(taken, reverse=bool(number % 2)):
                view = f"{url}run?run=trained" if name == "watched" else "about:blank"
                taken[name].append(measured(view))
    tab.close()
    for name in ("again", "watched"):
        both = list(zip(taken[name], taken["alone"], strict=True))
        times = sorted(100 * (one.s / other.s - 1) for one, other in both)
        work = sorted(100 * (one.cpu_ns / other.cpu_ns - 1) for one, other in both)
        print(
            f"a trainer of {1 / median([one.s for one in taken['alone']]):,.0f} steps/s, {name}: "
            f"time a step {median(times):+.1f} % ({times[0]:+.1f} to {times[-1]:+.1f}), "
            f"its processor time a step {median(work):+.1f} % ({work[0]:+.1f} to {work[-1]:+.1f}); "
            f"{pairs} pairs, {os.cpu_count()} cores for all of it"
        )


def renderers_mib(browser: psutil.Process) -> float:
    """Memory that the processes of a browser which show its tabs share with no other."""
    below = browser.children(recursive=True)
    shown = [one for one in below if "--type=renderer" in one.cmdline()]
    return sum(one.memory_full_info().uss for one in shown) / 2**20


@contextmanager
def undriven_browser(url: str) -> Iterator[psutil.Process]:
    """A Chromium that shows a page. Nobody drives it: who does has every answer kept."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [chromium, *ARGUMENTS, "--headless=new", f"--user-data-dir={profile}", url],
            env=os.environ | {"TMPDIR": profile},  # it leaves files there
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def memory(jam: Jamboree, url: str, server: psutil.Process, minutes: float) -> None:
    """Tabs that follow a trainer for some minutes: its episode, and a long run that grows."""
    env = jam.record(ShortEnv(10**9), run="followed")
    short = jam.record(ShortEnv(3), run="many")
    env.reset()
    env.step(0)
    jam.flush()
    id = env.get_wrapper_attr("episode_id")
    end = threading.Event()

    def train() -> None:
        for number in count():
            env.step(1)
            if number % STEPS_OF_EPISODE == 0:
                play(short, 1)
            if end.wait(0.02):
                return

    trainer = threading.Thread(target=train)
    trainer.start()
    with (
        undriven_browser(f"{url}episode?id={id}") as of_episode,
        undriven_browser(f"{url}run?run=many") as of_run,
    ):
        time.sleep(15)
        before, began = server.cpu_times(), time.perf_counter()
        while True:
            passed = (time.perf_counter() - began) / 60
            print(
                f"after {passed:.1f} minutes, {len(jam.episode(id)):,} steps, "
                f"{len(jam.episodes(run='many')):,} episodes: "
                f"server {server.memory_info().rss / 2**20:.1f} MiB, "
                f"tab of the episode {renderers_mib(of_episode):.1f}, of the run "
                f"{renderers_mib(of_run):.1f} MiB",
                flush=True,
            )
            if passed >= minutes:
                break
            time.sleep(60 * min(minutes - passed, 1.0))
        after = server.cpu_times()
    end.set()
    trainer.join()
    env.close()
    short.close()
    share = (after.user + after.system - before.user - before.system) / (60 * passed)
    print(f"the server meanwhile: {100 * share:.1f} % of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--pairs", type=int, default=10, help="of a trainer without and with a tab")
    asked = parser.parse_args()
    print(machine())
    with jamboree(backup=False) as jam:
        play(jam.record(ShortEnv(LONG), run="long"), 1)
        play(jam.record(ShortEnv(3), run="many"), asked.episodes)
        jam.flush(60)
        with served(jam) as (url, server), browser() as chromium:
            many_episodes(jam, url, chromium, asked.episodes)
            moves(url, chromium)
            play(jam.record(ShortEnv(200), run="trained"), 50)
            jam.flush()
            if asked.pairs:
                redis_url = f"unix://{jam._connection.store.where}"
                trainer_cost(redis_url, url, chromium, asked.pairs)
            if asked.minutes:
                memory(jam, url, server, asked.minutes)


if __name__ == "__main__":
    main()
