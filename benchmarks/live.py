"""How late another process sees a step, and what it costs to read the newest steps of live actors.

Staleness: from the moment `env.step` returns to the moment a follower in another process has the
step. Target: flush interval + one bare round trip of the same run. Beside it, what the machine adds
to any message: a bare RPUSH in one process, until BLPOP returns in another. Steps of 8 actors: the
newest 16 of each, as an agent reads them before each step of its own, while the actors go on. The
newest steps of one episode: 16 in the process that records it (target: 3 µs), 250 in another one
(target: 1.5 times a GET of the same bytes in the same run).

Run: .venv/bin/python benchmarks/live.py
"""

import argparse
import json
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
from _pairs import in_turn, jamboree, machine, median

from jamboree_gym import Jamboree, Transitions

ACTORS = 8
NEWEST = 16
READS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--hz", type=float, default=200.0, help="steps a second")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, home, *more = arguments.child
        CHILDREN[what](home, *more)
        return
    print(machine())
    bare_message(arguments.steps, arguments.hz)
    for interval_s in (0.05, 0.01):
        for how in ("episode", "run"):
            staleness(how, interval_s, arguments.steps, arguments.hz)
    newest_of_actors(arguments.hz)
    newest_of_one()


# -- how late a step is seen ------------------------------------------------------------------


def bare_message(count: int, hz: float) -> None:
    """How late a message through Redis is, without anything of ours but the server."""
    with jamboree() as jam:
        listener = start_child("listener", jam, str(count))
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listens\n"
        due, sent = time.perf_counter(), []
        for _ in range(count):
            due += 1 / hz
            time.sleep(max(0.0, due - time.perf_counter()))
            sent.append(time.time())
            jam.redis.rpush("messages", b"message")
        received = json.loads(listener.stdout.readline())
        listener.wait()
    late_ms = (np.array(received) - np.array(sent)) * 1e3
    print(f"a bare message: {spread(late_ms)}")


def listen(home: str, count: str) -> None:
    """The process that gets them."""
    with Jamboree(home=home) as jam:
        print("listens", flush=True)
        received = []
        for _ in range(int(count)):
            while jam.redis.blpop(["messages"], timeout=1) is None:
                pass
            received.append(time.time())
        print(json.dumps(received), flush=True)


def spread(late_ms: np.ndarray) -> str:
    p50, p99 = np.percentile(late_ms, [50, 99])
    return f"p50 {p50:6.2f} ms, p99 {p99:6.2f} ms, most {late_ms.max():6.2f} ms"


def staleness(how: str, flush_interval_s: float, steps: int, hz: float) -> None:
    """Record one episode in this process, follow it in another, compare the clocks."""
    with jamboree(flush_interval_s=flush_interval_s) as jam:
        env = jam.record(gym.make("Pendulum-v1", max_episode_steps=steps), run="live")
        env.reset(seed=0)
        jam.flush()
        follower = start_child(how, jam, env.episode_id)
        assert follower.stdout is not None
        assert follower.stdout.readline() == "follows\n"
        returned = step_at(hz, env, steps)
        received = json.loads(follower.stdout.readline())
        follower.wait()
        trip_ms = round_trip_ms(jam)
    assert [index for index, _ in received] == list(range(steps)), "a gap, or a repeat"
    late_ms = (np.array([at for _, at in received]) - np.array(returned)) * 1e3
    bound_ms = flush_interval_s * 1e3 + trip_ms
    print(
        f"tail of {how:<8} flush interval {flush_interval_s * 1e3:3.0f} ms, {hz:.0f} steps/s: "
        f"{spread(late_ms)}; bound {bound_ms:.2f} ms (a round trip: {trip_ms:.2f} ms), "
        f"within it: {100 * np.mean(late_ms <= bound_ms):.1f} %"
    )


def step_at(hz: float, env: gym.Env, steps: int) -> list[float]:
    """When each step returned, epoch seconds."""
    action, returned = env.action_space.sample(), []
    due = time.perf_counter()
    for _ in range(steps):
        due += 1 / hz
        time.sleep(max(0.0, due - time.perf_counter()))
        env.step(action)
        returned.append(time.time())
    return returned


def round_trip_ms(jam: Jamboree, count: int = 2000) -> float:
    """A GET of a small key, in the middle."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        jam.redis.get("nothing")
        taken.append(time.perf_counter() - began)
    return float(np.median(taken)) * 1e3


def follow_episode(home: str, episode_id: str) -> None:
    """The follower: says that it is there, then when it got which step."""
    with Jamboree(home=home) as jam:
        jam.episode(episode_id).data()  # the first read of a process loads what it needs
        print("follows", flush=True)
        received = [(step.index, time.time()) for step in jam.episode(episode_id).tail()]
        print(json.dumps(received), flush=True)


def follow_run(home: str, episode_id: str) -> None:
    """The same, by way of the run."""
    with Jamboree(home=home) as jam:
        jam.episode(episode_id).data()
        tail, received = jam.tail(run="live"), []
        print("follows", flush=True)
        for _, step in tail:
            received.append((step.index, time.time()))
            if step.terminated or step.truncated:
                break
        print(json.dumps(received), flush=True)


# -- the newest steps of other actors -----------------------------------------------------------


def newest_of_actors(hz: float) -> None:
    """Read them again and again in this process, while they act in another."""
    with jamboree() as jam:
        actors = start_child("actors", jam, str(hz))
        assert actors.stdout is not None
        ids = json.loads(actors.stdout.readline())
        measures = {
            f"jam.recent({ACTORS} ids, {NEWEST})": lambda: jam.recent(ids, NEWEST),
            f"{ACTORS} x episode.recent({NEWEST})": lambda: [
                jam.episode(id).recent(NEWEST) for id in ids
            ],
        }
        taken: dict[str, list[float]] = {name: [] for name in measures}
        for _ in range(READS):
            for name, read in measures.items():
                began = time.perf_counter()
                found = read()
                taken[name].append(time.perf_counter() - began)
                assert [len(steps) for steps in found] == [NEWEST] * ACTORS
        actors.kill()
        actors.wait()
        trip_ms = round_trip_ms(jam)
        stored = [next(jam.redis.scan_iter(f"*:episode:{{{id}}}")) for id in ids]
        batches = np.mean([jam.redis.llen(key) - 1 for key in stored])
        rows = np.mean([len(jam.episode(id)) + 1 for id in ids])
    for name, seconds in taken.items():
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
        print(
            f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms; a round trip: {trip_ms:.2f} ms; "
            f"{rows / batches:.1f} rows a batch at {hz:.0f} steps/s"
        )


def newest_of_one() -> None:
    """The newest steps of one episode, from memory and from Redis."""
    with jamboree() as jam, Jamboree(home=jam._connection._home) as elsewhere:
        env = jam.record(gym.make("Pendulum-v1", max_episode_steps=10**6))
        env.reset(seed=0)
        step_at(1e6, env, 1000)
        jam.flush()
        here, there = jam.episode(env.episode_id), elsewhere.episode(env.episode_id)
        newest = elsewhere._connection.store.last(
            jam._connection.keyspace.episode(env.episode_id), 251
        )
        assert newest is not None
        elsewhere.redis.set("as-many-bytes", b"".join(batch.blob for batch in newest.batches))
        taken = in_turn(
            READS,
            memory=lambda: microseconds(lambda: here.recent(16)),
            used=lambda: microseconds(lambda: three_arrays(here.recent(16))),
            there=lambda: microseconds(lambda: there.recent(250)),
            get=lambda: microseconds(lambda: elsewhere.redis.get("as-many-bytes")),
        )
    print(f"episode.recent(16) where it is recorded: {median(taken['memory']):.1f} us")
    print(f"  and three of its arrays: {median(taken['used']):.1f} us")
    print(f"episode.recent(250) in another process: {median(taken['there']):.1f} us")
    print(f"GET of the same bytes: {median(taken['get']):.1f} us")
    print(f"  in times of it: {median(taken['there']) / median(taken['get']):.2f}")


def three_arrays(steps: Transitions) -> None:
    """Use them: they are made then."""
    _ = steps.observations, steps.actions, steps.rewards


def microseconds(action) -> float:
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e6


def act(home: str, hz: str) -> None:
    """The actors; each plays another episode."""
    with Jamboree(home=home) as jam:
        envs = [jam.record(gym.make("Pendulum-v1", max_episode_steps=10**9)) for _ in range(ACTORS)]
        for env in envs:
            env.reset(seed=0)
            step_at(1e6, env, NEWEST)
        jam.flush()
        print(json.dumps([env.episode_id for env in envs]), flush=True)
        while True:
            due = time.perf_counter() + 1 / float(hz)
            for env in envs:
                env.step(env.action_space.sample())
            time.sleep(max(0.0, due - time.perf_counter()))


def start_child(what: str, jam: Jamboree, *more: str) -> subprocess.Popen[str]:
    """This file in another process, on the same servers."""
    command = [sys.executable, __file__, "--child", what, str(jam._connection._home), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


CHILDREN = {
    "episode": follow_episode,
    "run": follow_run,
    "actors": act,
    "listener": listen,
}


if __name__ == "__main__":
    main()
