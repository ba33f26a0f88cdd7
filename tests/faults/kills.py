"""Kills recording processes at random moments, under each condition in turn, and counts.

    python tests/faults/kills.py --kills 500 --away-s 60

A kind of process: one environment, a vector environment (of single ones, or stepped by array
operations), an SB3 VecEnv, a `learn` of SB3, three that save records. A condition: Redis lives on;
Redis is killed, or stopped, for some seconds before; the embedded supervisor is killed in the same
moment, alone or with its servers. The next process that opens the store has to find each call that
had returned, once, and each episode with its true status at once.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "store"))

from conftest import Server, start_redis, valkey_program
from embedded_home import SUPERVISOR, new_home, processes_of
from killed_writers import KINDS, Scene, Tally, kill, kill_with_servers, kill_without_redis

from jamboree_gym import Jamboree

Condition = Callable[[Scene, str], Tally]
EVERY = 10  # kills, between two lines


class World:
    """Servers that live as long as the kills go on.

    Args:
        directory: Where the files go.
        exits: Ends them.
        away_s: How long Redis is away.
    """

    def __init__(self, directory: Path, exits: ExitStack, away_s: float) -> None:
        self._directory = directory
        self._away_s = away_s
        self._valkey = self._start(exits, "valkey")
        self._mortal = self._start(exits, "mortal", "--appendfsync", "always")
        self.conditions: dict[str, Condition] = {
            "Redis lives on": partial(kill, server=self._valkey),
            "Redis killed before": partial(kill_without_redis, server=self._mortal, how="killed"),
            "Redis stopped before": partial(kill_without_redis, server=self._mortal, how="stopped"),
            "with the supervisor": lambda scene, kind: kill_with_servers(
                scene, kind, lambda: _supervisors(scene.home)
            ),
            "with all servers": lambda scene, kind: kill_with_servers(
                scene, kind, lambda: processes_of(scene.home)
            ),
        }

    def _start(self, exits: ExitStack, name: str, *options: str) -> Server:
        server = start_redis(valkey_program(), self._directory / name, *options)
        exits.callback(server.stop)
        return server

    def strike(self, kind: str, condition: str) -> Tally:
        """Kill one kind of process under a condition."""
        with self._scene() as scene:
            try:
                return self.conditions[condition](scene, kind)
            except Exception:  # noqa: BLE001 - it is told, and the others go on
                return Tally(killed=1, wrong=[traceback.format_exc()])

    @contextmanager
    def _scene(self) -> Iterator[Scene]:
        opened: list[Jamboree] = []

        def open_one(url: str | None, **options: object) -> Jamboree:
            opened.append(Jamboree(url, **options))
            return opened[-1]

        with new_home() as home, tempfile.TemporaryDirectory(dir=self._directory) as name:
            namespace = f"killed-{uuid.uuid4().hex[:12]}"
            scene = Scene(namespace, home, Path(name), open_one, self._away_s)
            try:
                yield scene
            finally:
                scene.close()
                for jam in opened:
                    jam.close()


def _supervisors(home: Path) -> list[object]:
    return [one for one in processes_of(home) if SUPERVISOR in one.cmdline()]


def main() -> int:
    """Kill many, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--away-s", type=float, default=5.0, help="how long Redis is away")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--conditions", default="", help="only those whose name contains this")
    options = parser.parse_args()
    os.environ["JAMBOREE_IDLE_EXIT_S"] = "20"  # of the embedded servers
    os.environ["JAMBOREE_WARM"] = "stable_baselines3"
    by_kind = {kind: Tally() for kind in options.kinds}
    by_condition = defaultdict[str, Tally](Tally)
    begun = time.monotonic()
    with ExitStack() as exits:
        directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="jg-", dir="/tmp")))
        world = World(directory, exits, options.away_s)
        conditions = [name for name in world.conditions if options.conditions in name]
        cases: list[tuple[str, str]] = []
        total, told = Tally(), 0
        while total.killed < options.kills:
            if not cases:
                cases = [(kind, condition) for kind in options.kinds for condition in conditions]
                random.shuffle(cases)
            kind, condition = cases.pop()
            tally = world.strike(kind, condition)
            total.add(tally)
            by_kind[kind].add(tally)
            by_condition[condition].add(tally)
            if not tally.is_right:
                print(f"{kind}, {condition}: {tally}", flush=True)
            if total.killed >= told + EVERY:
                told = total.killed
                print(f"{time.monotonic() - begun:.0f} s: {total.line}", flush=True)
    for name, tally in [*by_kind.items(), *by_condition.items(), ("in all", total)]:
        print(f"{name}: {tally.line}")
    return not total.is_right


if __name__ == "__main__":
    sys.exit(main())
