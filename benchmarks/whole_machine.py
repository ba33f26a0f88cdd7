"""Processor time of every process of a recording, for each step, and when nothing happens.

The trainer, the supervisor of the embedded servers, Valkey, the backup and the MongoDB server: at
full speed and at a fixed number of steps a second, and idle. The trainer's part is what it takes
beyond the same loop without recording, until all is in Redis. The others are counted until the
backup has copied everything.

Run: .venv/bin/python benchmarks/whole_machine.py
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium as gym
import psutil
from _pairs import jamboree, machine

RATES: tuple[float | None, ...] = (None, 2000, 300)  # steps a second; None = as many as it can
TRAINER = "trainer"
SETTLING_S = 25  # the backup looks once more after its last copy, and then lets MongoDB go
IDLE_S = 60  # the backup looks once a minute
ROLES = {  # what the command line of each process has
    "supervisor": "run_supervisor",
    "valkey": "valkey",
    "backup": "jamboree_gym.backup",
    "mongo": "secantus",
}


@dataclass
class Spent:
    """Processor seconds and wake-ups of each process, and the steps of that time."""

    seconds: dict[str, float] = field(default_factory=dict)
    wakeups: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    took_s: float = 0.0


def processes(home: Path) -> dict[str, psutil.Process]:
    """The processes of a home by their role, and this one."""
    found = {TRAINER: psutil.Process()}
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if str(home) in command:
            role = next((role for role, part in ROLES.items() if part in command), None)
            if role is not None:
                found[role] = process
    return found


def now(found: dict[str, psutil.Process], *, in_ticks: bool = False) -> Spent:
    spent = Spent(took_s=time.perf_counter())
    for role, process in found.items():
        spent.seconds[role] = ticks_s(process) if in_ticks else processor_seconds(process)
        spent.wakeups[role] = sum(map(voluntary_switches, threads_of(process)))
    return spent


def processor_seconds(process: psutil.Process) -> float:
    """Of its threads, exactly where the system counts nanoseconds, else in ticks of 10 ms."""
    try:
        files = [Path(f"/proc/{process.pid}/task/{one}/schedstat") for one in threads_of(process)]
        counted_ns = [int(file.read_text().split()[0]) for file in files]
    except OSError:
        counted_ns = []
    return sum(counted_ns) / 1e9 or ticks_s(process)


def ticks_s(process: psutil.Process) -> float:
    """In ticks of 10 ms, those of threads that have ended included: for a minute and longer."""
    times = process.cpu_times()
    return times.user + times.system


def threads_of(process: psutil.Process) -> Iterable[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
    except FileNotFoundError:
        return []


def voluntary_switches(thread: int) -> int:
    """How often a thread has gone to sleep; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return 0
    return next(
        int(line.split()[1]) for line in status.splitlines() if line.startswith("voluntary")
    )


def counted(
    found: dict[str, psutil.Process],
    do: Callable[[], int],
    others_end: Callable[[], None] = lambda: None,
) -> Spent:
    """What is spent while something is done that returns its number of steps.

    By the processes other than the trainer, also until `others_end` returns.
    """
    before = now(found)
    steps = do()
    trainer = now({TRAINER: found[TRAINER]})
    others_end()
    after = now(found)
    after.seconds |= trainer.seconds
    after.wakeups |= trainer.wakeups
    return Spent(
        {role: after.seconds[role] - before.seconds[role] for role in found},
        {role: after.wakeups[role] - before.wakeups[role] for role in found},
        steps,
        after.took_s - before.took_s,
    )


def play(env: gym.Env, seconds: float, rate: float | None) -> int:
    """Step for so long; return the number of steps."""
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1000)]
    env.reset(seed=0)
    began, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        if rate is not None and steps > rate * elapsed:
            time.sleep(steps / rate - elapsed)
        _, _, terminated, truncated, _ = env.step(actions[steps % len(actions)])
        steps += 1
        if terminated or truncated:
            env.reset()
    return steps


def wait_for_copies(jam) -> None:
    while (status := jam.backup.status()).pending_logs or status.pending_deletes:
        time.sleep(0.5)


def measure(jam, home: Path, env_id: str, rate: float | None, seconds: float) -> None:
    raw = counted(
        {TRAINER: psutil.Process()},
        lambda: play(gym.make(env_id, disable_env_checker=True), seconds, rate),
    )
    env = jam.record(gym.make(env_id, disable_env_checker=True), run="machine")

    def recorded() -> int:
        steps = play(env, seconds, rate)
        jam.flush()
        return steps

    spent = counted(processes(home), recorded, lambda: wait_for_copies(jam))
    env.close()
    us = {role: 1e6 * seconds / spent.steps for role, seconds in spent.seconds.items()}
    us[TRAINER] -= 1e6 * raw.seconds[TRAINER] / raw.steps
    others = sum(value for role, value in us.items() if role != TRAINER)
    parts = ", ".join(f"{role} {value:.1f}" for role, value in us.items())
    wakeups = sum(spent.wakeups.values()) / spent.took_s
    name = "full speed" if rate is None else f"{rate:,.0f} steps/s"
    print(
        f"{env_id}, {name} ({spent.steps / seconds:,.0f}/s): µs a step: {parts}; "
        f"all but the trainer {others:.1f}; {wakeups:,.0f} wake-ups/s"
    )


def idle(home: Path, seconds: float) -> None:
    """Wake-ups are those of threads that are there at both ends."""
    found = processes(home)
    before = now(found, in_ticks=True)
    time.sleep(seconds)
    after = now(found, in_ticks=True)
    took_s = after.took_s - before.took_s
    shares = {role: (after.seconds[role] - before.seconds[role]) / took_s for role in found}
    parts = ", ".join(
        f"{role} {100 * share:.2f} % of a core, "
        f"{max(0, after.wakeups[role] - before.wakeups[role]) / took_s:.1f} wake-ups/s"
        for role, share in shares.items()
    )
    print(f"idle: {100 * sum(shares.values()):.2f} % of a core ({parts})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--env", action="append", dest="envs")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="jamboree-bench-") as folder:
        home = Path(folder)
        with jamboree(home=home, backup=True) as jam:
            env = jam.record(gym.make("CartPole-v1"), run="warm")
            env.reset(seed=0)
            env.close()
            jam.flush()
            wait_for_copies(jam)
            for env_id in arguments.envs or ["CartPole-v1"]:
                for rate in RATES:
                    measure(jam, home, env_id, rate, arguments.seconds)
            time.sleep(SETTLING_S)
            idle(home, IDLE_S)


if __name__ == "__main__":
    main()
