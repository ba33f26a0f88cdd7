"""Simulates the store: many schedules in a while, or one of them again.

    python tests/simulation/simulate.py --seconds 60
    python tests/simulation/simulate.py --seed 4711 --story

A seed that fails is shrunk, and told as a story. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from schedule import Schedule, is_on_cluster, made, shrunk
from simulated_actors import Outcome, simulate

__all__ = ["Failure", "failures", "main", "run"]

SHRINK_S = 60.0
FIXED = {"PYTHONHASHSEED": "0"}  # else the order of sets differs between two processes


@dataclass(frozen=True)
class Failure:
    """A seed that breaks a promise.

    Attributes:
        seed: The seed.
        schedule: What is left of its schedule when it was shrunk.
        outcome: Of that.
        on_cluster: Whether Redis was a cluster.
    """

    seed: int
    schedule: Schedule
    outcome: Outcome
    on_cluster: bool = False

    def __str__(self) -> str:
        """The story."""
        is_told = self.on_cluster and not is_on_cluster(self.seed)
        cluster = " --cluster" if is_told else ""
        return "\n".join(
            (
                f"seed {self.seed} breaks a promise; shrunk to {len(self.schedule)} steps:",
                *self.outcome.story,
                "",
                *(f"broken: {one}" for one in self.outcome.violations),
                f"again: python tests/simulation/simulate.py --seed {self.seed}{cluster}",
            )
        )


def run(seed: int, *, shrink_s: float = SHRINK_S, on_cluster: bool = False) -> Failure | None:
    """Have the schedule of a seed happen; what is left of it if it fails.

    On a cluster, if that is said, or the seed is one of those.
    """
    on_cluster = on_cluster or is_on_cluster(seed)
    schedule = made(seed, on_cluster=on_cluster)
    outcome = simulate(schedule, seed, on_cluster=on_cluster)
    if not outcome.violations:
        return None
    kind = _kind(outcome)
    until = time.monotonic() + shrink_s

    def fails(smaller: Schedule) -> bool:
        if time.monotonic() >= until:
            return False
        return _kind(simulate(smaller, seed, on_cluster=on_cluster)) == kind

    smaller = shrunk(schedule, fails)
    outcome = simulate(smaller, seed, on_cluster=on_cluster)
    return Failure(seed, smaller, outcome, on_cluster=on_cluster)


def _kind(outcome: Outcome) -> str:
    """What was broken, without the names in it: a smaller schedule has others."""
    words = outcome.violations[0].split() if outcome.violations else []
    return " ".join(word for word in words if word.strip(",.:;'()").isalpha())


def failures(
    first: int,
    seconds: float,
    say: Callable[[int], None],
    *,
    shrink_s: float = SHRINK_S,
    most: int = 10**9,
    on_cluster: bool = False,
) -> Iterator[Failure]:
    """The failures of the seeds from one on, for so long; all of them on a cluster, or some."""
    until = time.monotonic() + seconds
    seed = first
    while time.monotonic() < until and seed < first + most:
        found = run(seed, shrink_s=shrink_s, on_cluster=on_cluster)
        if found is not None:
            yield found
        seed += 1
        say(seed - first)


def main() -> int:
    """Parse, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--first", type=int, help="the first of many; without it: at random")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--most", type=int, default=10**9, help="at most so many")
    parser.add_argument("--tell-every", type=int, default=0, help="a line after so many")
    parser.add_argument("--story", action="store_true", help="also if nothing is broken")
    parser.add_argument("--all", action="store_true", help="go on after a failure")
    parser.add_argument("--whole", action="store_true", help="do not shrink")
    parser.add_argument("--cluster", action="store_true", help="each of them on a cluster")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in FIXED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | FIXED)
    gc.freeze()  # what is imported stays
    shrink_s = 0.0 if options.whole else SHRINK_S
    if options.seed is not None:
        failure = run(options.seed, shrink_s=shrink_s, on_cluster=options.cluster)
        if failure is not None:
            print(failure)
        elif options.story:
            on_cluster = options.cluster or is_on_cluster(options.seed)
            schedule = made(options.seed, on_cluster=on_cluster)
            outcome = simulate(schedule, options.seed, on_cluster=on_cluster)
            print(*outcome.story, sep="\n")
        return int(failure is not None)
    first = random.SystemRandom().randrange(10**9) if options.first is None else options.first
    print(f"schedules from seed {first} on, for {options.seconds:g} s", flush=True)
    count, kinds, began = 0, Counter[str](), time.monotonic()

    def say(done: int) -> None:
        nonlocal count
        count = done
        if options.tell_every and done % options.tell_every == 0:
            minutes = (time.monotonic() - began) / 60
            print(f"{done} in {minutes:.1f} minutes, {kinds.total()} failed", flush=True)

    kwargs: dict[str, Any] = {"shrink_s": shrink_s, "most": options.most}
    for failure in failures(first, options.seconds, say, on_cluster=options.cluster, **kwargs):
        kind = _kind(failure.outcome)
        kinds[kind] += 1
        if kinds[kind] == 1:
            print(failure, flush=True)
        if not options.all:
            break
    minutes = (time.monotonic() - began) / 60
    print(f"{count} schedules, {count / minutes:.0f} a minute, {kinds.total()} failed")
    for kind, number in kinds.most_common():
        print(f"  {number} x {kind}")
    return int(bool(kinds))


if __name__ == "__main__":
    sys.exit(main())
