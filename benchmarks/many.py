"""64 recording processes, 1,024 live episodes and 20 followers on one Valkey, and on a cluster.

Each recorder plays 16 episodes at once, at a fixed pace. Each follower follows the run of one
recorder. What is asked: how many connections a process has, whether a recorder is starved, whether
memory stays flat, and how late a follower is.

Run: .venv/bin/python benchmarks/many.py    (or: --store cluster --seconds 300)
"""

import argparse
import itertools
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import create_server

import gymnasium as gym
import numpy as np
import psutil
import redis
from _pairs import machine

from jamboree_gym import Jamboree
from jamboree_gym.servers.programs.installed import require_valkey

STEPS_OF_AN_EPISODE = 200
SLOTS = 16384
PRIMARIES = 3
PRELOADED = ["gymnasium", "jamboree_gym.jamboree", "jamboree_gym.wrappers"]
MIB = 1 << 20
SAMPLE_S = 2.0
SILENT_S = 60  # then something is wrong
SETTLING_S = 3  # until recorders know that they are followed


class Small(gym.Env):
    """Costs nearly nothing itself."""

    observation_space = gym.spaces.Box(-1, 1, (8,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def __init__(self):
        self.steps = 0
        self.observation = np.zeros(8, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation, {}

    def step(self, action):
        self.steps += 1
        self.observation[self.steps % 8] = self.steps / STEPS_OF_AN_EPISODE
        return self.observation, 1.0, False, self.steps == STEPS_OF_AN_EPISODE, {}


def run_of(recorder):
    return f"recorder {recorder}"


# -- the processes --------------------------------------------------------------------------------


def record(number, url, home, episodes, rate, begun, ended, results):
    """Play `episodes` at once, each `rate` steps a second, until it is told to end."""
    with Jamboree(url, home=home, backup=False) as jam:
        envs = [jam.record(Small(), run=run_of(number)) for _ in range(episodes)]
        for env in envs:
            env.reset(seed=number)
        jam.flush()
        begun.wait()
        began, steps = time.perf_counter(), 0
        while not ended.is_set():
            for env in envs:
                *_, truncated, _ = env.step(steps % 4)
                if truncated:
                    env.reset()
            steps += 1
            if rate:
                time.sleep(max(0.0, began + steps / rate - time.perf_counter()))
        taken = steps * episodes
        jam.flush(timeout_s=60)
        took_s = time.perf_counter() - began
        results.put(("recorder", number, taken / took_s))


def follow(number, recorder, url, home, begun, seen, results):
    """Follow the run of a recorder, and note how late each step comes."""
    with Jamboree(url, home=home, backup=False) as jam:
        late = []
        tail = jam.tail(run=run_of(recorder), wait=True, timeout_s=SILENT_S)
        begun.wait()
        counted_from = time.time() + SETTLING_S
        for _, step in tail:
            if step.timestamp > counted_from:
                late.append(time.time() - step.timestamp)
            if seen.is_set():
                break
    results.put(("follower", number, late))


# -- the servers ----------------------------------------------------------------------------------


def free_port():
    with closing(create_server(("127.0.0.1", 0))) as free:
        return free.getsockname()[1]


@contextmanager
def servers(folder, count, *options):
    """So many Valkeys; their ports."""
    ports, processes = [free_port() for _ in range(count)], []
    try:
        for port in ports:
            place = folder / str(port)
            place.mkdir()
            command = [str(require_valkey()), "--port", str(port), "--dir", str(place)]
            command += ["--save", "", "--appendonly", "yes", "--logfile", str(place / "log")]
            processes.append(subprocess.Popen([*command, *options]))
        for port in ports:
            wait_for(redis.Redis(port=port).ping)
        yield ports
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def wait_for(is_so):
    while True:
        with suppress(redis.ConnectionError):
            if is_so():
                return
        time.sleep(0.05)


@contextmanager
def one_server(folder):
    with servers(folder, 1) as ports:
        yield f"redis://127.0.0.1:{ports[0]}", ports


@contextmanager
def cluster(folder):
    """Primaries without replicas."""
    with servers(folder, PRIMARIES, "--cluster-enabled", "yes") as ports:
        clients = [redis.Redis(port=port, decode_responses=True) for port in ports]
        for at, client in enumerate(clients):
            first, last = SLOTS * at // PRIMARIES, SLOTS * (at + 1) // PRIMARIES - 1
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        for client in clients:
            wait_for(lambda client=client: client.cluster("INFO")["cluster_state"] == "ok")
            wait_for(lambda client=client: len(client.cluster("NODES")) == PRIMARIES)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports), ports


STORES = {"one": one_server, "cluster": cluster}


# -- what is measured -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Of one kind of process, at one time: memory of its own and connections, of each."""

    own_bytes: list[int]
    connections: list[int]


def sample(processes, ports):
    own, connections = [], []
    for process in processes:
        of_it = psutil.Process(process.pid)
        own.append(of_it.memory_full_info().uss)
        to_store = [one for one in of_it.net_connections("tcp") if one.raddr]
        connections.append(sum(one.raddr.port in ports for one in to_store))
    return Sample(own, connections)


def growth(samples):
    """Of the median process: memory of its own after a fifth of the time, and at the end, MiB."""
    series = [statistics.median(one.own_bytes) / MIB for one in samples]
    return (
        f"{series[len(series) // 5]:.1f} MiB after a fifth of the time, {series[-1]:.1f} at the end"
    )


def most_connections(samples):
    return max(itertools.chain.from_iterable(one.connections for one in samples))


def measure(store, arguments):
    folder = Path(tempfile.mkdtemp(prefix="jamboree-bench-"))
    try:
        with STORES[store](folder) as (url, ports):
            measure_on(store, url, ports, folder / "home", arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_on(store, url, ports, home, arguments):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    begun, seen, ended = context.Event(), context.Event(), context.Event()
    results = context.Queue()
    each = max(1, round(arguments.episodes / arguments.recorders))
    recorders = [
        context.Process(
            target=record, args=(k, url, home, each, arguments.rate, begun, ended, results)
        )
        for k in range(arguments.recorders)
    ]
    followers = [
        context.Process(
            target=follow, args=(k, k % arguments.recorders, url, home, begun, seen, results)
        )
        for k in range(arguments.followers)
    ]
    for process in recorders + followers:
        process.start()
    with Jamboree(url, home=home, backup=False) as jam:
        wait_for(lambda: len(jam.episodes(status="running")) == each * arguments.recorders)
    begun.set()
    samples: dict[str, list[Sample]] = {"recorder": [], "follower": []}
    clients = [redis.Redis(port=port) for port in ports]
    most_clients, until = [0] * len(ports), time.perf_counter() + arguments.seconds
    while time.perf_counter() < until:
        time.sleep(min(SAMPLE_S, arguments.seconds / 5))
        samples["recorder"].append(sample(recorders, ports))
        samples["follower"].append(sample(followers, ports))
        counts = [client.info("clients")["connected_clients"] - 1 for client in clients]
        most_clients = list(map(max, most_clients, counts))
    seen.set()
    found = [results.get(timeout=300) for _ in followers]
    ended.set()
    found += [results.get(timeout=300) for _ in recorders]
    for process in recorders + followers:
        process.join()
    rates = [one for kind, _, one in found if kind == "recorder"]
    late = sorted(
        itertools.chain.from_iterable(one for kind, _, one in found if kind == "follower")
    )
    print(
        f"{store}: {len(recorders)} recorders, {each * len(recorders):,} live episodes, "
        f"{len(followers)} followers, {arguments.seconds:.0f} s, load {os.getloadavg()[0]:.0f}"
    )
    asked = len(recorders) * each * arguments.rate
    print(
        f"    {sum(rates):,.0f} steps/s in Redis" + (f", of {asked:,.0f} asked for" * bool(asked)),
        f"slowest / fastest recorder {min(rates) / max(rates):.2f}",
        sep="; ",
    )
    for name, taken in samples.items():
        print(f"    a {name}: at most {most_connections(taken)} connections; {growth(taken)}")
    print(f"    connections of each server, at most: {', '.join(map(str, most_clients))}")
    print(
        f"    a step is seen after {1000 * statistics.median(late):.0f} ms (median), "
        f"{1000 * late[int(0.99 * len(late))]:.0f} ms (99 %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", choices=sorted(STORES), action="append", help="repeatable")
    parser.add_argument("--recorders", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--followers", type=int, default=20)
    parser.add_argument(
        "--rate", type=float, default=5.0, help="steps a second of an episode; 0: at full speed"
    )
    parser.add_argument("--seconds", type=float, default=180)
    arguments = parser.parse_args()
    print(machine())
    for store in arguments.store or STORES:
        measure(store, arguments)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
