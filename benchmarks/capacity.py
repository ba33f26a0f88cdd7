"""Bytes and processor time of a million recorded steps, for each part that they pass.

For a small observation (CartPole), one of MuJoCo's size (HalfCheetah) and Atari's frames:
what they take in Redis, in the journal, in MongoDB and in a backup folder, and the processor time
of the recording process (beyond the same loop without recording), of Valkey, and of a copy to
either backup. `docs/capacity.md` makes plans from these numbers.

Run: .venv/bin/python benchmarks/capacity.py
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ale_py
import gymnasium as gym
from _pairs import jamboree, machine
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from whole_machine import processes, processor_seconds

from jamboree_gym import Jamboree

MB = 1e6
MILLION = 1_000_000


def pong():
    gym.register_envs(ale_py)
    return AtariPreprocessing(gym.make("ALE/Pong-v5", frameskip=1))


@dataclass(frozen=True)
class Case:
    """An environment, and how many of its steps are measured."""

    make: Callable[[], gym.Env]
    steps: int


CASES = {
    "CartPole-v1": Case(lambda: gym.make("CartPole-v1"), 200_000),
    "HalfCheetah-v5": Case(lambda: gym.make("HalfCheetah-v5"), 50_000),
    "Atari, a frame of 84 x 84": Case(pong, 20_000),
    "Atari, 4 frames of 84 x 84": Case(lambda: FrameStackObservation(pong(), 4), 5_000),
}


def play(env, steps):
    """Processor seconds of this process, all threads."""
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1000)]
    before = time.process_time()
    env.reset(seed=0)
    for step in range(steps):
        _, _, terminated, truncated, _ = env.step(actions[step % len(actions)])
        if terminated or truncated:
            env.reset()
    return time.process_time() - before


def bytes_below(folder):
    """On the disk."""
    return sum(512 * one.stat().st_blocks for one in folder.rglob("*") if one.is_file())


def bytes_of_documents(database):
    raw = CodecOptions(document_class=RawBSONDocument)
    names = database.list_collection_names()
    collections = [database.get_collection(name, codec_options=raw) for name in names]
    return sum(len(one.raw) for collection in collections for one in collection.find())


def memory(jam):
    return jam.redis.info("memory")["used_memory"]


class Watch:
    """What is spent from one look to the next by this process and the servers of a home."""

    def __init__(self, home):
        self._home = home
        self.look()

    def look(self):
        """Seconds since the look before, by process."""
        found = processes(self._home)
        now = {role: processor_seconds(process) for role, process in found.items()}
        before = getattr(self, "_before", now)
        self._before = now
        return {role: seconds - before.get(role, 0.0) for role, seconds in now.items()}


def measure(name, case, share):
    steps = max(1, round(share * case.steps))
    per_million = MILLION / steps
    raw_s = play(case.make(), steps)
    with (
        tempfile.TemporaryDirectory(prefix="jamboree-bench-") as folder,
        jamboree(home=Path(folder) / "home") as jam,
    ):
        home = Path(folder) / "home"
        env = jam.record(case.make(), run="capacity")
        env.reset(seed=1)
        jam.flush()
        watch, before = Watch(home), memory(jam)
        recorded_s = play(env, steps)
        journal = bytes_below(home / "journal")
        in_process_s = time.process_time()
        jam.flush(timeout_s=60)
        recorded_s += time.process_time() - in_process_s
        of_valkey_s = watch.look()["valkey"]
        in_redis = memory(jam) - before
        env.close()
        jam.backup.flush()
        to_mongo = watch.look()
        in_mongo = bytes_of_documents(jam.mongo)
        on_disk = bytes_below(home / "mongo")
        url = f"unix://{jam.redis.connection_pool.connection_kwargs['path']}"
        backup = Path(folder) / "backup"
        with Jamboree(url, home=home, backup=f"file://{backup}") as other:
            watch.look()
            other.backup.flush()
            to_folder = watch.look()
        in_folder = bytes_below(backup)
    print(f"{name}: a million steps, of {steps:,} measured")
    sizes = {
        "Redis": in_redis * per_million,
        "MongoDB, documents": in_mongo * per_million,
        "MongoDB, on disk": on_disk * per_million,
        "folder": in_folder * per_million,
    }
    print("    MB:", ", ".join(f"{part} {size / MB:,.0f}" for part, size in sizes.items()))
    print(f"    the journal has {journal / MB:.1f} MB, whatever the number of steps")
    spent = {
        "recording": recorded_s - raw_s,
        "Valkey, recording": of_valkey_s,
        "copy to MongoDB": to_mongo["trainer"],
        "Valkey, copy": to_mongo["valkey"],
        "MongoDB server": to_mongo.get("mongo", 0.0),
        "copy to a folder": to_folder["trainer"],
    }
    parts = ", ".join(f"{part} {seconds * per_million:,.1f}" for part, seconds in spent.items())
    print(f"    processor seconds (the environment alone {raw_s * per_million:,.0f}): {parts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the steps; 0.01 for a try")
    arguments = parser.parse_args()
    print(machine())
    for name, case in CASES.items():
        measure(name, case, arguments.share)


if __name__ == "__main__":
    main()
