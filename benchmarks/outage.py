"""Does a MongoDB that goes away slow down the environment, and is all caught up after?

One trainer records CartPole as quickly as it can, beside a Valkey, a MongoDB server and the backup
process (`python -m jamboree_gym.backup --follow`). MongoDB is there, is killed with -9, comes back;
the steps of each part are counted in the same run.

    python benchmarks/outage.py --away 60 --there 30
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _pairs import machine

from jamboree_gym import Jamboree
from jamboree_gym.servers.embedded import EmbeddedServers, stop_servers

NAMESPACE = "outage"
TRAINER = """
import sys, time
import gymnasium as gym
from jamboree_gym import Jamboree

with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    env = jam.record(gym.make("CartPole-v1"))
    actions = [env.action_space.sample() for _ in range(256)]
    env.reset(seed=0)
    until, steps = time.perf_counter() + float(sys.argv[3]), 0
    while time.perf_counter() < until:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        steps += len(actions)
        print(time.perf_counter(), steps, flush=True)
"""


class Mongo:
    """A new MongoDB server."""

    def __init__(self, directory: Path) -> None:
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"mongodb://127.0.0.1:{self.port}"
        self._directory = directory
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "secantus", "--port", str(self.port)]
        command += ["--storage-path", str(self._directory), "--cache-size", "128M"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


LOOK_S = 3.0  # a look costs time, too: it counts what is not copied
CAUGHT_UP_S = 3.0  # as far behind as it may be at full speed, and a little more


def wait_for_copy(jam: Jamboree) -> float:
    """How long it takes until the backup is no further behind than at full speed."""
    began = time.perf_counter()
    while True:
        lag = jam.backup.status().lag_s
        if lag is not None and lag < CAUGHT_UP_S:
            return time.perf_counter() - began
        time.sleep(LOOK_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--away", type=float, default=60.0, help="seconds without MongoDB")
    parser.add_argument("--there", type=float, default=30.0, help="seconds before, and after")
    arguments = parser.parse_args()
    print(machine())
    directory = Path(tempfile.mkdtemp(prefix="jamboree-bench-"))
    home = directory / "home"
    mongo = Mongo(directory / "mongo")
    with EmbeddedServers.join(home) as servers:
        url = servers.redis_url
        command = [sys.executable, "-m", "jamboree_gym.backup", "--follow", "--redis-url", url]
        command += ["--interval-s", "0.25"]
        command += ["--mongo-url", mongo.url, "--namespace", NAMESPACE]
        jam = Jamboree(url, mongo.url, namespace=NAMESPACE)
        follower = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while jam.backup.status().follower is None:
            time.sleep(0.1)
        counted = directory / "steps"
        with counted.open("w") as output:
            command = [sys.executable, "-c", TRAINER, url, NAMESPACE, "1e9"]
            trainer = subprocess.Popen(command, stdout=output)
        while not counted.stat().st_size:
            time.sleep(0.1)
        parts = [("MongoDB there", time.perf_counter())]
        time.sleep(arguments.there)
        mongo.kill()
        parts.append(("MongoDB away", time.perf_counter()))
        time.sleep(arguments.away)
        behind = jam.backup.status()
        mongo.start()
        parts.append(("back, catching up", time.perf_counter()))
        caught_up_s = wait_for_copy(jam)
        parts.append(("MongoDB there again", time.perf_counter()))
        time.sleep(arguments.there)
        end = time.perf_counter()
        trainer.kill()
        trainer.wait()
        lines = counted.read_text().splitlines()[:-1]  # the last one may be cut
        ticks = [tuple(map(float, line.split())) for line in lines]
        for (name, began), until in zip(parts, [*(at for _, at in parts[1:]), end], strict=True):
            inside = [steps for at, steps in ticks if began <= at < until]
            speed = (inside[-1] - inside[0]) / (until - began)
            print(f"{name:20} {until - began:6.1f} s  {speed:10,.0f} steps/s", flush=True)
        print(f"when it came back {behind.pending_records:,} records were not copied")
        print(f"what the backup said: {behind.last_error}")
        print(f"no more than {CAUGHT_UP_S:.0f} s behind again after {caught_up_s:.1f} s")
        wait_for_copy(jam)
        jam.backup.flush()
        began = time.perf_counter()
        report = jam.backup.verify()
        took = f"{time.perf_counter() - began:.0f} s"
        print(f"verify: {report.logs:,} logs in {took}: {dict(report.different) or 'clean'}")
        follower.terminate()
        follower.wait()
        jam.close()
    stop_servers(home)
    mongo.kill()


if __name__ == "__main__":
    main()
