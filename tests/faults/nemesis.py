"""Writers, readers, a deleter, a trimmer and backups go on while a nemesis empties, kills and stops
servers and processes; then what is left is held against what each of them was told.

    python tests/faults/nemesis.py --seeds 0-9 --seconds 20

What is checked, at the end, and again after Redis was emptied for good:

- each episode can be read; its rows are those of its writer from the first on, and its summary
  tells of as many steps as there are;
- what was acknowledged is there, unless Redis was emptied before a backup was complete, or it was
  deleted;
- what was deleted while MongoDB answered stays deleted;
- a record of a handler is there once, and those of one writer in their order;
- the backup is complete and equal (`flush`, `verify`), and no log is refused;
- no reader ever saw anything but a prefix, or was told that it is not there now.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from conftest import Server, start_redis, valkey_program
from full_disk import mongo_of_its_own
from processes import PATHS, NoteHandler

from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeNotFound, JamboreeError, StoreUnavailable

WRITERS = 4
READERS = 2
NAMESPACE = "nemesis"
MODES = ("buffered", "sync")
LATE_S = 30.0  # a writer that has been told to end

Span = tuple[float, float]
"""Before and after, epoch seconds."""


@dataclass
class Claim:
    """What a writer was told: so much of it is stored.

    Attributes:
        span: From the first call that put some of it to the end of the one that acknowledged it.
            Where Redis is emptied in between, it may be gone without a copy.
        what: An episode's id, or `note` and the handler's name.
        count: Steps, or the number of the record.
        by: The writer.
    """

    span: Span
    what: str
    count: int
    by: str


@dataclass
class History:
    """What happened when.

    Attributes:
        claims: What was acknowledged to writers.
        emptied: When Redis was emptied.
        killed: When it was killed.
        copied: When backups were complete.
        deleted: Episodes that were deleted while MongoDB answered.
        maybe_deleted: The same while it may not have.
        mongo_away: When MongoDB was killed or stopped.
        violations: What must never be, in words.
        counts: How often what was done.
    """

    claims: list[Claim] = field(default_factory=list)
    emptied: list[Span] = field(default_factory=list)
    killed: list[Span] = field(default_factory=list)
    copied: list[Span] = field(default_factory=list)
    deleted: dict[str, Span] = field(default_factory=dict)
    maybe_deleted: set[str] = field(default_factory=set)
    mongo_away: list[Span] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def is_lasting(self, claim: Claim) -> bool:
        """Whether what was acknowledged has to be there at the end."""
        before, after = claim.span
        emptied = [span for span in self.emptied if span[1] >= before]
        if not emptied:
            return True
        first = min(span[0] for span in emptied)
        return any(after < start and end < first for start, end in self.copied)


class World:
    """Servers, and all who use them.

    Args:
        seed: Of all that is drawn.
        directory: Where the files go.
    """

    def __init__(self, seed: int, directory: Path, exits: ExitStack) -> None:
        self.random = random.Random(seed)
        self.history = History()
        self.over = threading.Event()
        self.stop_file = directory / "stop"
        # With `everysec` a killed server may lose what it has acknowledged: while the disk is busy
        # with a sync, it puts off its writes.
        self.redis = start_redis(valkey_program(), directory / "valkey", "--appendfsync", "always")
        exits.callback(self.redis.stop)
        self.mongo: Server = exits.enter_context(mongo_of_its_own(directory / "mongo"))
        self.writers: dict[str, subprocess.Popen[str]] = {}
        self.dead: list[subprocess.Popen[str]] = []
        self.follower: subprocess.Popen[bytes] | None = None
        self.threads: list[threading.Thread] = []
        self._number = 0

    def open(self, **options: Any) -> Jamboree:
        """A Jamboree of one's own."""
        options = {"namespace": NAMESPACE, "backup": False, **options}
        return Jamboree(self.redis.url, self.mongo.url, **options)

    # -- who goes on ------------------------------------------------------------------------

    def start_writer(self) -> None:
        """One more, under a name that is new."""
        self._number += 1
        name = f"writer-{self._number}"
        script = Path(__file__).with_name("nemesis_writer.py")
        arguments = [self.redis.url, self.mongo.url, NAMESPACE, name]
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments, self.random.choice(MODES), self.stop_file],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.writers[name] = process
        self._run(lambda: self._listen(name, process))

    def _listen(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):  # it was killed in the middle of a line
                kind, *rest = json.loads(line)
                if kind == "acked":
                    before, after, what, count = rest
                    self.history.claims.append(Claim((before, after), what, count, name))
                else:
                    self.history.counts[f"{kind} {rest[0]}" if rest else kind] += 1

    def start_follower(self) -> None:
        """The backup, as a process."""
        command = [sys.executable, "-m", "jamboree_gym.backup", "--follow", "--interval-s", "0.25"]
        command += ["--namespace", NAMESPACE]
        command += ["--redis-url", self.redis.url, "--mongo-url", self.mongo.url]
        self.follower = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _run(self, target: Callable[[], None]) -> None:
        self.threads.append(threading.Thread(target=target, daemon=True))
        self.threads[-1].start()

    def start_all(self) -> None:
        """Everybody but the nemesis."""
        for _ in range(WRITERS):
            self.start_writer()
        self.start_follower()
        others = [self.delete, self.trim, self.copy, *[self.read] * READERS]
        for number, act in enumerate(others):
            self._run(lambda act=act, number=number: self._again_and_again(act, number))

    def _again_and_again(self, act: Callable[[Jamboree, random.Random], None], number: int) -> None:
        chance = random.Random(self.random.random() + number)
        while not self.over.is_set():
            try:
                with self.open() as jam:
                    while not self.over.wait(chance.random() * 0.3):
                        act(jam, chance)
            except (StoreUnavailable, EpisodeNotFound):
                self.over.wait(0.2)
            except JamboreeError as error:
                self.history.counts[f"{act.__name__}: {type(error).__name__}"] += 1
                self.over.wait(0.2)

    def read(self, jam: Jamboree, chance: random.Random) -> None:
        """Look at some episode."""
        ids = jam.episodes().ids()
        for episode in chance.sample(ids, min(3, len(ids))):
            with suppress(EpisodeNotFound):
                self.check_prefix(jam, episode)
            self.history.counts["reads"] += 1

    def check_prefix(self, jam: Jamboree, episode: str) -> int:
        """The number of steps of an episode, if they are those of its writer."""
        data = jam.episode(episode).data()
        seen = data.observations[:, 0]
        if not np.array_equal(seen, np.arange(len(seen))):
            self.history.violations.append(f"{episode}: its rows are {seen.tolist()}")
        return len(data)

    def delete(self, jam: Jamboree, chance: random.Random) -> None:
        """Delete some episode."""
        ids = jam.episodes().ids()
        if not ids or chance.random() < 0.5:
            return
        episode, before = chance.choice(ids), time.time()
        self.history.maybe_deleted.add(episode)
        jam.episode(episode).delete()
        after = time.time()
        away = self.history.mongo_away
        if not any(start <= after and before <= end for start, end in away):
            self.history.deleted[episode] = (before, after)
        self.history.counts["deletions"] += 1

    def trim(self, jam: Jamboree, chance: random.Random) -> None:
        """Let go of as much as may go."""
        if chance.random() < 0.3:
            jam.backup.retain(max_redis_bytes=1)
            jam.backup.trim()
            jam.backup.retain()
            self.history.counts["trims"] += 1

    def copy(self, jam: Jamboree, chance: random.Random) -> None:
        """Copy all, and note when that was."""
        before = time.time()
        jam.backup.flush()
        self.history.copied.append((before, time.time()))
        self.history.counts["copies"] += 1

    # -- the nemesis ------------------------------------------------------------------------

    def strike(self) -> None:
        """Do one bad thing."""
        deeds = [self.empty, self.kill_redis, self.stop_redis, self.kill_mongo, self.stop_mongo]
        deeds += [self.kill_writer, self.kill_writer, self.kill_follower]
        deed = self.random.choice(deeds)
        deed()
        self.history.counts[deed.__name__] += 1

    def empty(self) -> None:
        """Empty Redis."""
        before = time.time()
        with self.open() as jam:
            jam.redis.flushall()
        self.history.emptied.append((before, time.time()))

    def kill_redis(self) -> None:
        """Kill it, and start it again."""
        before = time.time()
        self.redis.kill()
        self.history.killed.append((before, time.time()))
        time.sleep(self.random.random() * 0.5)
        self.redis.start()

    def stop_redis(self) -> None:
        """Stop it for a moment."""
        self._pause(self.redis.process.pid)

    def kill_mongo(self) -> None:
        """Kill it, and start it again."""
        with self._mongo_away():
            self.mongo.kill()
            time.sleep(self.random.random() * 0.5)
            self.mongo.start()

    def stop_mongo(self) -> None:
        """Stop it for a moment."""
        with self._mongo_away():
            self._pause(self.mongo.process.pid)

    def _mongo_away(self) -> ExitStack:
        away = (time.time(), float("inf"))
        self.history.mongo_away.append(away)
        exits = ExitStack()
        exits.callback(lambda: self._mongo_is_back(away))
        return exits

    def _mongo_is_back(self, away: Span) -> None:
        self.history.mongo_away.remove(away)
        self.history.mongo_away.append((away[0], time.time()))

    def _pause(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.random.random())
        os.kill(pid, signal.SIGCONT)

    def kill_writer(self) -> None:
        """Kill one, and start another."""
        name = self.random.choice(list(self.writers))
        process = self.writers.pop(name)
        process.kill()
        self.dead.append(process)
        self.start_writer()

    def kill_follower(self) -> None:
        """Kill the backup, and start another."""
        assert self.follower is not None
        self.follower.kill()
        self.follower.wait()
        self.start_follower()

    # -- the end ----------------------------------------------------------------------------

    def end(self) -> None:
        """Have all of them end."""
        self.over.set()
        self.stop_file.touch()
        for name, process in self.writers.items():
            try:
                process.wait(LATE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                self.history.violations.append(f"{name} did not end within {LATE_S} s")
            errors = process.stderr.read() if process.stderr is not None else ""
            if process.poll():
                self.history.violations.append(f"{name} failed: {errors[-1000:]}")
        if self.follower is not None:
            self.follower.terminate()
            self.follower.wait()
        for thread in self.threads:
            thread.join(LATE_S)
        for process in [*self.dead, *self.writers.values()]:
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def check(self) -> None:
        """Hold what is left against what was said."""
        with self.open() as jam:
            self._check_backup(jam)
            found = self._check_contents(jam, "at the end")
            self._check_backup(jam)
            jam.redis.flushall()
        with self.open() as jam:
            again = self._check_contents(jam, "after Redis was emptied for good")
            self._check_backup(jam)
        if found != again:
            differing = [key for key in found | again if found.get(key) != again.get(key)]
            self.history.violations.append(f"not the same from MongoDB: {differing[:5]}")

    def _check_backup(self, jam: Jamboree) -> None:
        try:
            jam.backup.flush()
            report = jam.backup.verify()
        except JamboreeError as error:
            self.history.violations.append(f"the backup: {type(error).__name__}: {error}")
            return
        if not report:
            self.history.violations.append(
                f"the backup: {dict(list(report.different.items())[:3])}"
            )

    def _check_contents(self, jam: Jamboree, when: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for summary in jam.episodes().summaries():
            try:
                found[summary.id] = self.check_prefix(jam, summary.id)
            except JamboreeError as error:
                self._violated(f"{summary.id}: {type(error).__name__}: {error}", when)
                continue
            if summary.steps != found[summary.id]:
                self._violated(
                    f"{summary.id}: {found[summary.id]} steps, not {summary.steps}", when
                )
        names = {claim.what.removeprefix("note ") for claim in self.history.claims}
        for name in sorted(name for name in names if not _is_episode(name)):
            records = [(one["by"], one["n"]) for one in NoteHandler(jam, name).many(10**6)]
            found[f"note {name}"] = records
            for by in {by for by, _ in records}:
                numbers = [n for one, n in records if one == by]
                if numbers != sorted(set(numbers)):
                    self._violated(f"notes of {by} in {name}: {numbers}", when)
        self._check_claims(found, when)
        back = sorted(self.history.deleted.keys() & found.keys())
        if back:
            self._violated(f"deleted, and back: {back}", when)
        return found

    def _check_claims(self, found: dict[str, Any], when: str) -> None:
        for claim in filter(self.history.is_lasting, self.history.claims):
            if _is_episode(claim.what):
                is_there = found.get(claim.what, 0) >= claim.count
                is_there = is_there or claim.what in self.history.maybe_deleted
            else:
                is_there = (claim.by, claim.count) in set(found.get(claim.what, ()))
            if not is_there:
                self._violated(f"acknowledged, and gone: {claim}", when)

    def _violated(self, what: str, when: str) -> None:
        self.history.violations.append(f"{when}: {what}")


def _is_episode(what: str) -> bool:
    return len(what) == 32 and " " not in what


def run(seed: int, seconds: float) -> History:
    """One history.

    Args:
        seed: Of all that is drawn; what the machine makes of it differs each time.
        seconds: For how long the nemesis goes on.
    """
    with tempfile.TemporaryDirectory(prefix="jg-", dir="/tmp") as name, ExitStack() as exits:
        world = World(seed, Path(name), exits)
        world.start_all()
        until = time.monotonic() + seconds
        time.sleep(2)  # for the writers to begin
        while time.monotonic() < until:
            world.strike()
            time.sleep(world.random.random() * 2)
        world.end()
        world.check()
        return world.history


def histories(seeds: range, seconds: float) -> Iterator[tuple[int, History]]:
    """Those of several seeds."""
    for seed in seeds:
        yield seed, run(seed, seconds)


def main() -> int:
    """Run some, and say what was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0-9", help="first and last")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    bad = 0
    for seed, history in histories(range(int(first), int(last or first) + 1), options.seconds):
        bad += bool(history.violations)
        print(f"seed {seed}: {len(history.claims)} claims, {dict(history.counts)}", flush=True)
        if history.violations:
            print(*history.violations[:8], sep="\n")
            print(f"Redis was killed at {history.killed}, emptied at {history.emptied}", flush=True)
    print(f"{bad} with violations")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
