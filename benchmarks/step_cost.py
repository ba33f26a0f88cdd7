"""What recording a step costs, and where: the caller's thread, the writer's, and waiting.

Run: .venv/bin/python benchmarks/step_cost.py
"""

import argparse
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from _pairs import in_turn, jamboree, machine, median

from jamboree_gym.delivery import writer
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.delivery.writer import Writer
from jamboree_gym.store.redis.appender import LogAppender

ENVS = ("CartPole-v1", "Pendulum-v1")
NEVER_S = 100.0  # a flush interval in which the thread does nothing
MAX_PENDING_BYTES = 1 << 30

thread_s: defaultdict[str, float] = defaultdict(float)


def clocked(owner: Any, name: str) -> None:
    """Add up the processor time that the writer's thread spends in a method or function."""
    method = getattr(owner, name)

    def timed(*args, **kwargs):
        if threading.current_thread().name != "jamboree-writer":
            return method(*args, **kwargs)
        began = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            thread_s[name] += time.thread_time() - began

    setattr(owner, name, timed)


def make(env_id: str):
    env = gym.make(env_id, disable_env_checker=True)
    env.reset(seed=0)
    env.action_space.seed(0)
    return env


def us_a_step(env, actions: list, clock: Callable[[], float] = time.thread_time) -> float:
    began = clock()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return 1e6 * (clock() - began) / len(actions)


def us_a_reset(env, resets: int = 500) -> float:
    began = time.thread_time()
    for _ in range(resets):
        env.reset()
    return 1e6 * (time.thread_time() - began) / resets


def more(values: dict[str, list[float]], name: str) -> float:
    return statistics.median(a - b for a, b in zip(values[name], values["raw"], strict=True))


def measure(env_id: str, rounds: int, steps: int) -> None:
    raw = make(env_id)
    actions = [raw.action_space.sample() for _ in range(steps)]
    with (
        jamboree() as jam,
        jamboree(flush_interval_s=NEVER_S, max_pending_bytes=MAX_PENDING_BYTES) as idle,
    ):
        recorded, undelivered = jam.record(make(env_id)), idle.record(make(env_id))
        recorded.reset(seed=0)
        undelivered.reset(seed=0)

        def without_thread(call: Callable[[], float]) -> float:
            us = call()
            idle.flush()
            return us

        resets = in_turn(
            rounds,
            raw=lambda: us_a_reset(raw),
            recorded=lambda: without_thread(lambda: us_a_reset(undelivered)),
        )
        taken = in_turn(
            rounds,
            raw=lambda: us_a_step(raw, actions),
            caller=lambda: without_thread(lambda: us_a_step(undelivered, actions)),
            all=lambda: us_a_step(recorded, actions, time.perf_counter),
        )
        jam.flush()
        episodes = len(jam.episodes())
    recorded_steps = (rounds + 1) * steps
    share = episodes / recorded_steps
    # 0 for what this thread never did: `flush` delivers by itself
    thread: defaultdict[str, float] = defaultdict(float)
    thread |= {name: 1e6 * seconds / recorded_steps for name, seconds in thread_s.items()}
    thread["seal"] += thread["seal_together"]
    caller, reset = more(taken, "caller"), more(resets, "recorded")
    print(f"{env_id}: raw {median(taken['raw']):.2f} µs a step, an episode has {1 / share:.0f}")
    print(f"  recorded                     +{more(taken, 'all'):.2f} µs a step, of which")
    print(f"  caller's thread, step         {caller - reset * share:.2f}")
    print(f"  caller's thread, reset        {reset * share:.2f} ({reset:.1f} µs a reset)")
    for name, what in (("seal", "sealing"), ("next_append", "picking"), ("append", "sending")):
        print(f"  writer's thread, {what:<12} {thread[name]:.2f} ({thread[name] / share:.1f})")
    rest = thread["_try_delivery"] - thread["seal"] - thread["next_append"] - thread["append"]
    print(f"  writer's thread, the rest     {rest:.2f}")
    waiting = more(taken, "all") - caller - thread["_try_delivery"]
    print(f"  waiting for each other        {waiting:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    print(machine())
    clocked(StepOutbox, "seal")
    clocked(writer, "seal_together")
    clocked(StepOutbox, "next_append")
    clocked(LogAppender, "append")
    clocked(Writer, "_try_delivery")
    for env_id in ENVS:
        thread_s.clear()
        measure(env_id, arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
