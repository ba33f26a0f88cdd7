"""Resident memory of a process that records millions of steps; draws docs/images/memory.png.

Expected: flat after the first tenth.

Run: .venv/bin/python benchmarks/memory.py
"""

import argparse
from pathlib import Path

import gymnasium as gym
import psutil
from _pairs import jamboree, machine

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "memory.png"
SAMPLES = 200


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


def record(jam, env_id: str, steps: int) -> list[tuple[int, float]]:
    """Resident memory, MiB, by number of steps."""
    env = jam.record(gym.make(env_id, disable_env_checker=True))
    env.action_space.seed(0)
    env.reset(seed=0)
    every = max(1, steps // SAMPLES)
    taken = []
    for step in range(1, steps + 1):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        if step % every == 0:
            taken.append((step, resident_mb()))
    env.close()
    jam.flush()
    return taken


def draw(taken: dict[str, list[tuple[int, float]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for name, samples in taken.items():
        steps, sizes = zip(*samples, strict=True)
        axes.plot([step / 1e6 for step in steps], sizes, label=name)
    axes.set_xlabel("recorded steps, millions")
    axes.set_ylabel("resident memory, MiB")
    axes.set_ylim(0, 1.3 * max(mb for samples in taken.values() for _, mb in samples))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    print(machine())
    taken = {}
    for env_id in ("CartPole-v1", "MountainCar-v0"):
        with jamboree() as jam:
            taken[env_id] = record(jam, env_id, arguments.steps)
        after_warm_up = [size for step, size in taken[env_id] if step >= arguments.steps // 10]
        print(
            f"{env_id}: {arguments.steps:,} steps; after the first tenth "
            f"{after_warm_up[0]:.1f} MiB, at the end {after_warm_up[-1]:.1f}, "
            f"between {min(after_warm_up):.1f} and {max(after_warm_up):.1f}"
        )
    draw(taken, arguments.picture)
    print(f"drawn: {arguments.picture}")


if __name__ == "__main__":
    main()
