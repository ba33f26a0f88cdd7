"""How many steps do 1, 2, 4 and 8 collectors of Ray record beside a learner, and what limits them?

The collectors and the learner are those of `examples/trainers/ray_dqn.py`. Here nobody waits for
long: a collector that has played a round gets the newest weights and the next round; the learner
takes gradient steps all the time. The processor time of each kind of process says what limits
them.

Needs: pip install 'jamboree-gym[embedded,sb3]' ray
Run: python benchmarks/trainers/ray_collectors.py
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil
import ray
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "examples" / "trainers")]

import ray_dqn  # noqa: E402
from _pairs import machine  # noqa: E402

from jamboree_gym import Jamboree  # noqa: E402
from jamboree_gym.servers.embedded import EmbeddedServers, stop_servers  # noqa: E402

COUNTS = (1, 2, 4, 8)
GRADIENT_STEPS = 16  # between two looks at the collectors
OF_RAY = ("gcs_server", "raylet/raylet", "ray/_private/", "ray/dashboard/")


class Collectors:
    """Collectors that play round after round, of so many steps.

    Attributes:
        pids: Of their processes.
        rounds: How many they have ended.
    """

    def __init__(self, count, round_steps, run, redis_url, learner):
        self._round_steps = round_steps
        self._all = ray_dqn.start_collectors(count, run, redis_url)
        self.pids = ray.get(
            [one.__ray_call__.remote(lambda self: os.getpid()) for one in self._all]
        )
        self._playing = {}
        self.rounds = 0
        self._play(self._all, learner)

    def _play(self, collectors, learner):
        weights = learner.weights()
        for one in collectors:
            self._playing[one.play.remote(weights, learner.rounds, self._round_steps)] = one

    def look(self, learner):
        """Give the next round to those that have ended one."""
        refs = list(self._playing)
        ended, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        self.rounds += len(ended)
        if ended:
            self._play([self._playing.pop(one) for one in ended], learner)

    def stop(self):
        ray.get(list(self._playing))
        ray.get([one.close.remote() for one in self._all])
        for one in self._all:
            ray.kill(one)


def processor_seconds(pids):
    """Of the main threads and of all other threads of these processes."""
    main = others = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        of_main = sum(one.user_time + one.system_time for one in process.threads() if one.id == pid)
        times = process.cpu_times()
        main += of_main
        others += times.user + times.system - of_main
    return main, others


def pids_of(*parts):
    """The processes whose command line has one of these parts."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if any(part in command for part in parts):
            found.append(process.pid)
    return found


def spent(collectors, home):
    """Processor seconds until now, by kind of process."""
    play, deliver = processor_seconds(collectors.pids)
    return {
        "collectors, playing": play,
        "collectors, other threads": deliver,
        "learner": sum(processor_seconds([os.getpid()])),
        "Valkey": sum(processor_seconds([pid for pid in pids_of(str(home)) if is_valkey(pid)])),
        "Ray": sum(processor_seconds(pids_of(*OF_RAY))),
    }


def is_valkey(pid):
    return psutil.Process(pid).name().startswith("valkey")


def measure(count, seconds, round_steps, redis_url, home):
    run = f"{count} collectors"
    with Jamboree(redis_url, backup=False) as jam:
        learner = ray_dqn.Learner(jam, run)
        collectors = Collectors(count, round_steps, run, redis_url, learner)
        while collectors.rounds < 2 * count or learner.buffer.size() < ray_dqn.FIRST_STEPS:
            collectors.look(learner)
            learner.buffer.refresh()
        gradient_steps = 0
        before, rounds, began = spent(collectors, home), collectors.rounds, time.perf_counter()
        psutil.cpu_percent()
        while (took_s := time.perf_counter() - began) < seconds:
            collectors.look(learner)
            learner.learn(GRADIENT_STEPS)
            gradient_steps += GRADIENT_STEPS
        busy = psutil.cpu_percent()
        after, steps = spent(collectors, home), (collectors.rounds - rounds) * round_steps
        behind = collectors.rounds * round_steps - learner.buffer.size()
        collectors.stop()
    cores = {name: (after[name] - before[name]) / took_s for name in after}
    print(
        f"{count} collector{'s' * (count > 1)}: {steps / took_s:,.0f} steps/s, "
        f"{gradient_steps / took_s:,.0f} gradient steps/s; all processors {busy:.0f} % busy; "
        f"the learner lacks {max(0, behind):,} steps"
    )
    for name, used in cores.items():
        print(
            f"    {name:26} {used:.2f} cores, {1e6 * used * took_s / max(1, steps):4.0f} µs a step"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--collectors", type=int, action="append", help="how many; repeatable")
    parser.add_argument("--round-steps", type=int, default=2000, help="with the same weights")
    arguments = parser.parse_args()
    print(machine())
    torch.set_num_threads(1)
    ray_dqn.BUFFER_STEPS = 2_000_000  # all, so that its size says how far the learner has read
    ray.cloudpickle.register_pickle_by_value(ray_dqn)
    home = Path(tempfile.mkdtemp(prefix="jamboree-bench-"))
    try:
        with EmbeddedServers.join(home) as servers:
            for count in arguments.collectors or COUNTS:
                measure(count, arguments.seconds, arguments.round_steps, servers.redis_url, home)
    finally:
        ray.shutdown()
        stop_servers(home)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
