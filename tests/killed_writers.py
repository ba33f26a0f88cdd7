"""Kills recording processes, and holds what is stored against what had returned."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from conftest import Server
from journal_children import AT_ONCE, CHILDREN, ENDS, MAX_NOTES, OPEN, Notes, info_of
from journals import journal_of
from processes import NoteHandler, wait_until
from warm import start_warm

from jamboree_gym import EpisodeData, EpisodeSummary, Jamboree

KINDS = [*CHILDREN]
INTERVALS_S = (3600.0, 0.002, 0.05)
MOST_STEPS = 6000
SAVERS = 3  # processes that save to one log
PATIENCE_S = 180.0  # of a machine that is very busy


class Writer:
    """A process that records, and what it notes.

    Args:
        kind: Of `CHILDREN`.
        url: Of Redis; empty = the embedded one of the home.
        namespace: Where it records.
        home: Has its journal.
        interval_s: Its `flush_interval_s`.
        path: Of its notes.
    """

    def __init__(
        self, kind: str, url: str, namespace: str, home: Path, interval_s: float, path: Path
    ) -> None:
        self.notes = Notes(path, is_new=True)
        source = OPEN + CHILDREN[kind]
        self.process = start_warm(source, url, namespace, home, interval_s, path)

    def kill_after(self, count: int) -> None:
        """Kill it as `kill -9` does, once so many calls have returned."""
        self.wait_for(count)
        self.kill()

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)

    def wait_for(self, count: int) -> None:
        """Return once so many calls have returned."""
        wait_until(
            lambda: self.notes.count >= count or self.process.poll() is not None,
            timeout_s=PATIENCE_S,
        )
        if self.process.poll() is not None:
            raise AssertionError(f"it ended by itself: {self.process.communicate()[1]}")


def some_steps() -> int:
    """A random moment."""
    return random.randint(1, MOST_STEPS)


# -- what is found --------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was found after kills.

    Attributes:
        killed: Processes.
        noted: Calls that had returned.
        missing: Of them, those that are not stored.
        twice: Steps or records that are stored more than once.
        wrong: Whatever else is not as it was noted, in words.
        statuses: Episodes by status.
    """

    killed: int = 0
    noted: int = 0
    missing: int = 0
    twice: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def is_right(self) -> bool:
        """Whether everything is there, once, and as it was."""
        return not (self.missing or self.twice or self.wrong)

    def add(self, other: Tally) -> None:
        """Count another one in."""
        self.killed += other.killed
        self.noted += other.noted
        self.missing += other.missing
        self.twice += other.twice
        self.wrong += other.wrong
        self.statuses += other.statuses

    @property
    def line(self) -> str:
        """For people."""
        found = f"{self.killed} killed, {self.noted} calls had returned"
        found += f", missing {self.missing}, twice {self.twice}, otherwise wrong {len(self.wrong)}"
        statuses = ", ".join(f"{count} {status}" for status, count in self.statuses.items())
        return f"{found}; {statuses or 'records'}"

    def __str__(self) -> str:
        return "\n  ".join([self.line, *self.wrong[:8]])

    def expect(self, is_so: object, what: str) -> None:
        """Write down what is not so."""
        if not is_so:
            self.wrong.append(what)


def tally_of(jam: Jamboree, kind: str, writers: list[Writer]) -> Tally:
    """Hold what is stored against what the writers noted."""
    if kind == "saves":
        return _tally_records(jam, [writer.notes for writer in writers])
    (writer,) = writers
    return _tally_episodes(jam, writer.notes, kind)


def _tally_episodes(jam: Jamboree, notes: Notes, kind: str) -> Tally:
    """Of each environment, one call more may have been kept."""
    tally = Tally(noted=notes.count)
    noted = defaultdict[str, list[tuple[int, int, int]]](list)
    for episode, *rest in notes.read():
        noted[episode].append((rest[0], rest[1], rest[2]))
    summaries = {summary.id: summary for summary in jam.episodes().summaries()}
    for lost in noted.keys() - summaries.keys():
        tally.missing += len(noted[lost])
    seen_ever = Counter[int]()
    surplus = 0
    for summary in summaries.values():
        steps = noted[summary.id]
        tally.statuses[summary.status] += 1
        tally.expect(
            [step for step, _, _ in steps] == list(range(1, len(steps) + 1)),
            f"{summary.id}: its steps are noted under several ids",
        )
        tally.missing += max(0, len(steps) - summary.steps)
        surplus += max(0, summary.steps - len(steps))
        if summary.steps:
            data = jam.episode(summary.id).data()
            seen_ever.update(data.observations[1:, 0].astype(int).tolist())
            _check_data(tally, kind, summary, data, steps)
        else:
            tally.expect(summary.status == "interrupted", f"{summary.id} is {summary.status}")
    tally.twice += sum(count - 1 for count in seen_ever.values())
    tally.expect(surplus <= AT_ONCE[kind], f"{surplus} steps that have not returned")
    return tally


def _check_data(
    tally: Tally,
    kind: str,
    summary: EpisodeSummary,
    data: EpisodeData,
    steps: list[tuple[int, int, int]],
) -> None:
    seen = data.observations[1:, 0]
    actions = data.actions.astype(float)
    is_as_noted = seen[: len(steps)].tolist() == [observed for _, observed, _ in steps]
    for is_so, what in (
        (len(data) == summary.steps, "its summary tells of another number of steps"),
        (is_as_noted, "its observations are others"),
        (np.all(np.diff(data.observations[:, 0]) == 1), "its observations do not follow"),
        (np.all(data.observations[:, 1] == data.observations[:, 0] / 2), "half an observation"),
        (data.rewards.tolist() == (seen / 8 + actions).tolist(), "rewards of other actions"),
        (np.all(np.diff(data.timestamps) > 0), "its times do not ascend"),
        (not (data.terminations[:-1] | data.truncations[:-1]).any(), "it ends in its middle"),
        (summary.status == _true_status(data, steps), f"it is {summary.status}"),
    ):
        tally.expect(is_so, f"{summary.id}: {what}")
    for moved, info in zip(seen.astype(int).tolist(), data.infos[1:], strict=True):
        told = {name: info.get(name) for name in info_of(kind, moved)}
        is_so = told == info_of(kind, moved)
        tally.expect(is_so, f"{summary.id}: step {moved} has the info {info}")


def _true_status(data: EpisodeData, steps: list[tuple[int, int, int]]) -> str:
    if steps and (end := steps[-1][2]):
        return ENDS[end]
    if data.terminations[-1]:  # the call has not returned
        return "terminated"
    return "truncated" if data.truncations[-1] else "interrupted"


def _tally_records(jam: Jamboree, notes: list[Notes]) -> Tally:
    tally = Tally()
    handler = NoteHandler(jam, "killed")
    records = handler.many(handler.count())
    indices = [record["index"] for record in records]
    tally.expect(indices == list(range(len(records))), "indices are not one after the other")
    by_writer = defaultdict[str, list[int]](list)
    for record in records:
        by_writer[record["by"]].append(record["n"])
    for one in notes:
        tally.noted += one.count
        for name in {episode for episode, *_ in one.read()}:
            numbers = by_writer[name]
            tally.twice += len(numbers) - len(set(numbers))
            tally.missing += len({*range(one.count)} - {*numbers})
            tally.expect(numbers == sorted(numbers), f"the records of {name} are out of order")
            tally.expect(max(numbers, default=0) <= one.count, f"{name}: more than were saved")
    return tally


# -- the moments ----------------------------------------------------------------------------------


@dataclass
class Scene:
    """What a kill needs.

    Attributes:
        namespace: One that nobody else uses.
        home: Has the journal.
        directory: For the notes.
        open_jamboree: Opens a Jamboree, closed by somebody else.
        away_s: So long Redis is away before the kill, at least.
        writers: All that were started.
    """

    namespace: str
    home: Path
    directory: Path
    open_jamboree: Callable[..., Jamboree]
    away_s: float = 0.0
    writers: list[Writer] = field(default_factory=list)

    def close(self) -> None:
        """Leave no process behind."""
        for writer in self.writers:
            writer.kill()

    def start(
        self, kind: str, url: str | None, *, interval_s: float | None = None, many: int = 0
    ) -> list[Writer]:
        """Begin to record: so many processes, 0 = as many as are usual."""
        if interval_s is None:
            interval_s = random.choice(INTERVALS_S)
        notes = [
            self.directory / f"notes-{n}" for n in range(many or (SAVERS if kind == "saves" else 1))
        ]
        where = (url or "", self.namespace, self.home, interval_s)
        started = [Writer(kind, *where, path) for path in notes]
        self.writers += started
        return started

    def look(self, kind: str, url: str | None, writers: list[Writer]) -> Tally:
        """Open the store as the next process does; nothing is left to deliver then."""
        jam = self.open_jamboree(url, home=self.home, namespace=self.namespace, backup=False)
        tally = tally_of(jam, kind, writers)
        tally.killed = len(writers)
        tally.expect(not [*journal_of(self.home).iterdir()], "the journal is still there")
        return tally


def kill(scene: Scene, kind: str, server: Server) -> Tally:
    """Redis lives on."""
    writers = scene.start(kind, server.url)
    for writer in writers:
        writer.kill_after(some_steps())
    return scene.look(kind, server.url, writers)


def kill_without_redis(scene: Scene, kind: str, server: Server, *, how: str) -> Tally:
    """Redis is `killed` or `stopped`, then the process is killed, then Redis is back."""
    writers = scene.start(kind, server.url)
    for writer in writers:
        writer.wait_for(random.randint(1, 1000))
    with _away(server, how):
        back_at = time.monotonic() + scene.away_s
        enough = [writer.notes.count + random.randint(1, 3000) for writer in writers]
        for writer, count in zip(writers, enough, strict=True):
            writer.wait_for(min(count, MAX_NOTES // 2))
        time.sleep(max(0.0, back_at - time.monotonic()))
        for writer in writers:
            writer.kill()
    return scene.look(kind, server.url, writers)


@contextmanager
def _away(server: Server, how: str) -> Iterator[None]:
    if how == "killed":
        server.kill()
    else:
        server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if how == "killed":
            server.start()
        else:
            server.process.send_signal(signal.SIGCONT)


def kill_with_servers(
    scene: Scene, kind: str, find_servers: Callable[[], list[psutil.Process]]
) -> Tally:
    """Processes of the embedded servers are killed in the same moment."""
    writers = scene.start(kind, None)
    for writer in writers:
        writer.wait_for(some_steps())
    servers = find_servers()
    assert servers
    for process in [*[writer.process for writer in writers], *servers]:
        process.kill()
    for writer in writers:
        writer.kill()
    return scene.look(kind, None, writers)
