"""256 random transitions as tensors: from the store, beside SB3's own buffer and TorchRL on Redis.

Target: <= 0.5 ms. All of them hold the same steps of CartPole, and draw batches in turn. Ours looks
at the store as it does in training, every 0.05 s, within the time that is measured: once with
nobody writing, once while another process records 4,000 steps a second, as an actor with a small
network does. Besides: n-step, prioritised, windows; how long the first look takes, which reads all;
`to_replay_buffer`; and how quickly what has been recorded meanwhile is taken in, in short episodes.

TorchRL's Redis storage is measured where it is installed (`pip install torchrl`).

Run: .venv/bin/python benchmarks/sample.py
"""

import argparse
import importlib.util
import math
import statistics
import subprocess
import sys
import time
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from _pairs import in_turn, jamboree, machine, median, ratio

from jamboree_gym import Jamboree
from jamboree_gym.integrations.sb3 import JamboreeReplayBuffer, to_replay_buffer

RUN = "sample"
HZ = 4000.0


def record(jam, steps: int, hz: float = math.inf) -> None:
    """So many steps, no more than `hz` a second, in short episodes."""
    env, due = jam.record(gym.make("CartPole-v1"), run=RUN), time.perf_counter()
    env.action_space.seed(0)
    env.reset(seed=0)
    for step in range(steps):
        if step % 20 == 0:
            due += 20 / hz
            time.sleep(max(0.0, due - time.perf_counter()))
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.close()
    jam.flush()


def write_on(home: str) -> None:
    """The process that records while others sample, until it is killed."""
    with Jamboree(home=home) as jam:
        print("records", flush=True)
        record(jam, 10**9, HZ)


def live(jam, size: int, **options) -> JamboreeReplayBuffer:
    env = gym.make("CartPole-v1")
    return JamboreeReplayBuffer(
        size, env.observation_space, env.action_space, "cpu", jam=jam, run=RUN, **options
    )


def per_call(action, calls: int) -> float:
    """Milliseconds a call, on average: so what is done every 0.05 s counts with its share."""
    began = time.perf_counter()
    for _ in range(calls):
        action()
    return 1e3 * (time.perf_counter() - began) / calls


def once(action) -> float:
    """Seconds."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def torchrl_on_redis(jam, own, batch: int):
    """TorchRL's buffer with the same steps on the same server; None where it is not installed."""
    if importlib.util.find_spec("torchrl") is None:
        print("TorchRL is not installed")
        return None
    from tensordict import TensorDict
    from torchrl.data import ReplayBuffer, StoreStorage

    count = own.size()
    steps = TensorDict(
        {
            "observation": torch.as_tensor(own.observations[:count, 0]),
            "action": torch.as_tensor(own.actions[:count, 0]),
            "next_observation": torch.as_tensor(own.next_observations[:count, 0]),
            "reward": torch.as_tensor(own.rewards[:count]),
            "done": torch.as_tensor(own.dones[:count]),
        },
        [count],
    )
    storage = StoreStorage(count, unix_socket_path=jam._connection.store.where, prefix="torchrl")
    buffer = ReplayBuffer(storage=storage, batch_size=batch)
    for first in range(0, count, 10_000):
        buffer.extend(steps[first : first + 10_000])
    return buffer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--calls", type=int, default=500, help="batches in a round")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        write_on(arguments.child)
        return
    torch.set_num_threads(1)
    steps, batch, calls = arguments.steps, arguments.batch, arguments.calls
    print(f"{machine()}, torch {torch.__version__}")
    with jamboree() as jam:
        record(jam, steps)
        measure(jam, steps, batch, calls, arguments.rounds)


def measure(jam, steps: int, batch: int, calls: int, rounds: int) -> None:
    query = jam.episodes(run=RUN)
    filled_s = [once(lambda: to_replay_buffer(query, device="cpu")) for _ in range(3)]
    own = to_replay_buffer(query, device="cpu")
    buffers = {
        "ours": live(jam, steps),
        "n_step": live(jam, steps, n_steps=3),
        "prioritized": live(jam, steps, prioritized=True),
    }
    looked_s = [once(buffer.refresh) for buffer in buffers.values()]
    record(jam, 20_000)
    taken_in = once(lambda: [*iter(buffers["n_step"].refresh, 0)])
    torchrl = torchrl_on_redis(jam, own, batch)
    measures = {"own": lambda: per_call(lambda: own.sample(batch), calls)}
    for name, buffer in buffers.items():
        measures[name] = partial(per_call, partial(buffer.sample, batch), calls)
    windows = buffers["ours"]
    measures["windows"] = lambda: per_call(lambda: windows.sample_windows(batch // 8, 8), calls)
    if torchrl is not None:
        measures["torchrl"] = lambda: per_call(torchrl.sample, max(1, calls // 20))
    taken = in_turn(rounds, **measures)

    command = [sys.executable, __file__, "--child", str(jam._connection.read_options()["home"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "records\n"
        followed = buffers["ours"]
        while not followed.refresh():
            time.sleep(0.01)
        before, began = followed._succession.count, time.perf_counter()
        busy = in_turn(rounds, own=measures["own"], ours=measures["ours"])
        rate = (followed._succession.count - before) / (time.perf_counter() - began)
        writer.kill()

    print(f"{batch} of {steps:,} transitions as tensors, ms a batch; target 0.5")
    shown = {
        "own": "SB3's ReplayBuffer",
        "ours": "JamboreeReplayBuffer",
        "n_step": "  n_steps=3",
        "prioritized": "  prioritized",
        "windows": f"  {batch // 8} windows of 8",
        "torchrl": "TorchRL's StoreStorage",
    }
    for name in measures:
        print(f"  {shown[name]:28} {spread(taken[name])}")
    print(f"    ours in times of SB3's own   {ratio(taken['ours'], taken['own'])}")
    if torchrl is not None:
        print(f"    TorchRL's in times of ours   {ratio(taken['torchrl'], taken['ours'])}")
    print(f"while another process records, of which {rate:,.0f} steps/s were taken in")
    print(f"  {shown['own']:28} {spread(busy['own'])}")
    print(f"  {shown['ours']:28} {spread(busy['ours'])}")
    print(f"the first look, which reads all  {statistics.median(looked_s):.2f} s")
    print(f"a look at 20,000 new steps       {taken_in:.2f} s")
    print(f"to_replay_buffer                 {statistics.median(filled_s):.2f} s")


def spread(values: list[float]) -> str:
    """Median and range."""
    ordered = np.sort(values)
    return f"{median(values):.3f} ({ordered[0]:.3f} to {ordered[-1]:.3f})"


if __name__ == "__main__":
    main()
