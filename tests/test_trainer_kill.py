"""Trainers that are killed while they record at full speed, and what is left of their episodes.

How many is said by the environment variable JAMBOREE_KILLED_TRAINERS; `make faults` kills 100.
"""

from __future__ import annotations

import mmap
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from conftest import Server
from killed_trainer import (
    COUNTS,
    EPISODE,
    SIZE,
    STEPS,
    THOROUGH,
    TRAINER,
    policy,
)
from processes import wait_until
from warm import start_warm

from jamboree_gym import EpisodeData, Jamboree
from jamboree_gym.replay import verify

pytestmark = [pytest.mark.faults, pytest.mark.once]

TRAINERS = int(os.environ.get("JAMBOREE_KILLED_TRAINERS", "6"))
# Thoroughly: one after the other. Among other tests: several at once, to save time.
AT_ONCE = 1 if THOROUGH else 3
VERIFIED = 3  # so many of each trainer's episodes are simulated again, beside the cut one


@dataclass
class Trainer:
    """A trainer, and what it noted."""

    url: str
    namespace: str
    run: str
    path: Path
    killed_after: int = field(default_factory=lambda: random.randint(1, STEPS))

    def __post_init__(self) -> None:
        self.path.write_bytes(b"")
        os.truncate(self.path, SIZE)
        with self.path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.process = start_warm(TRAINER, self.url, self.namespace, self.run, self.path)

    @property
    def steps(self) -> int:
        """Number of steps that have returned."""
        return int(COUNTS.unpack_from(self._memory)[1])

    @property
    def is_due(self) -> bool:
        """Whether it is time to kill it, or it has ended by itself."""
        return self.steps >= self.killed_after or self.process.poll() is not None

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        assert self.process.poll() is None, self.process.communicate()[1]
        self.process.kill()
        self.process.communicate()

    def begun(self) -> list[tuple[str, int]]:
        """Id of each episode that was begun, and the steps that returned before it."""
        entries = [
            EPISODE.unpack_from(self._memory, COUNTS.size + EPISODE.size * i)
            for i in range(COUNTS.unpack_from(self._memory)[0])
        ]
        return [(episode_id.decode(), before) for episode_id, before in entries]


@pytest.fixture
def killed(valkey: Server, namespace: str, tmp_path: Path) -> Iterator[list[Trainer]]:
    """Trainers, each killed at a random moment while it recorded, a few at a time."""
    trainers: list[Trainer] = []
    alive: list[Trainer] = []

    def kill_the_due() -> bool:
        for trainer in [trainer for trainer in alive if trainer.is_due]:
            trainer.kill()
            alive.remove(trainer)
        return len(alive) < AT_ONCE

    try:
        for number in range(TRAINERS):
            wait_until(kill_the_due, timeout_s=60)
            run = f"trainer {number}"
            trainers.append(Trainer(valkey.url, namespace, run, tmp_path / f"{number}"))
            alive.append(trainers[-1])
        wait_until(lambda: kill_the_due() and not alive, timeout_s=60)
    finally:
        for trainer in alive:
            trainer.process.kill()
            trainer.process.communicate()
    yield trainers
    for trainer in trainers:
        trainer._memory.close()


def has_ended(data: EpisodeData) -> bool:
    return bool(len(data) and (data.terminations[-1] or data.truncations[-1]))


def check_is_a_prefix(jam: Jamboree, trainer: Trainer) -> int:
    """Compare a trainer's episodes with what it noted; number of steps found."""
    begun = trainer.begun()
    summaries = jam.episodes(run=trainer.run).summaries()
    assert len(summaries) <= len(begun) + 1  # one may be kept whose reset has not returned
    summaries = summaries[: len(begun)]
    assert [summary.id for summary in summaries] == [id_ for id_, _ in begun[: len(summaries)]]
    verified = {*random.sample(range(len(summaries)), min(VERIFIED, len(summaries)))}
    found = 0
    for number, summary in enumerate(summaries):
        data = jam.episode(summary.id).data()  # raises where a row is missing or damaged
        assert found == begun[number][1], "an earlier episode is shorter or longer than it was"
        assert summary.steps == len(data) == len(data.observations) - 1
        assert summary.episode_return == data.rewards.sum() == len(data)
        assert np.all(np.diff(data.timestamps) > 0)
        act = policy(number)
        assert [act(seen) for seen in data.observations[:-1]] == data.actions.tolist()
        assert not data.terminations[:-1].any()
        if has_ended(data):
            assert summary.status == ("terminated" if data.terminations[-1] else "truncated")
        else:
            assert number == len(summaries) - 1, "only the newest episode can have been cut"
            assert summary.status == "interrupted"
        if number in verified or not has_ended(data):
            assert verify(jam.episode(summary.id))
        found += len(data)
    return found


@pytest.mark.timeout(120 + 10 * TRAINERS)
def test_a_killed_trainer_loses_no_step_that_returned(
    killed: list[Trainer],
    open_jamboree: Callable[..., Jamboree],
    capsys: pytest.CaptureFixture[str],
) -> None:
    jam = open_jamboree()
    assert not jam.episodes(status="running").ids(), "a lease was left to expire"
    for trainer in killed:
        found = check_is_a_prefix(jam, trainer)
        assert trainer.steps <= found <= trainer.steps + 1  # one may not have returned
    by_status = Counter(summary.status for summary in jam.episodes().summaries())
    with capsys.disabled():
        print(
            f"\n{len(killed)} trainers killed after {sum(t.steps for t in killed)} steps: "
            f"{dict(by_status)}, as soon as the store was opened again. No step was lost."
        )
    assert by_status.keys() <= {"terminated", "truncated", "interrupted"}
    assert 0 < by_status["interrupted"] <= len(killed)
