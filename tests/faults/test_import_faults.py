"""`jamboree-gym import` while Redis is killed, full, or has no disk: the next import has all."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Server
from full_disk import fill, free, redis_of_its_own
from lengths import quick_and_long
from nested import is_same
from recorded_envs import ACTION, CountingEnv, play
from typer.testing import CliRunner, Result

from jamboree_gym import Jamboree
from jamboree_gym.cli import app
from jamboree_gym.cli.keeping import exchange
from jamboree_gym.integrations.found_episodes import EPISODES_PER_FLUSH
from jamboree_gym.integrations.hdf5 import to_hdf5
from jamboree_gym.progress import Progress

pytestmark = [pytest.mark.faults, pytest.mark.once]
EPISODES = EPISODES_PER_FLUSH + 30  # the first part is stored, then the fault comes
STEPS = 3


@dataclass
class Faulty:
    """A server, its directory, and what is imported."""

    server: Server
    directory: Path
    folder: Path
    namespace: str

    def open(self) -> Jamboree:
        return Jamboree(self.server.url, backup=False, namespace=self.namespace)

    def run(self) -> Result:
        arguments = ["import", str(self.folder), "--run", "back", "--namespace", self.namespace]
        return CliRunner().invoke(app, [*arguments, "--redis-url", self.server.url])


@pytest.fixture(scope="module")
def folder(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is imported: a folder of HDF5."""
    made = tmp_path_factory.mktemp("import") / "steps"
    with Jamboree(valkey.url, backup=False, namespace=f"test-{uuid.uuid4().hex[:12]}") as jam:
        env = jam.record(CountingEnv(STEPS), run="r")
        for _ in range(EPISODES):
            play(env, [ACTION] * STEPS)
        to_hdf5(jam.episodes(run="r"), made)
    return made


@pytest.fixture
def faulty(short_directory: Path, folder: Path, namespace: str) -> Iterator[Faulty]:
    directory = short_directory / uuid.uuid4().hex[:8]
    with redis_of_its_own("valkey9", directory, "--appendfsync", "always") as server:
        yield Faulty(server, directory, folder, namespace)


def kill(faulty: Faulty) -> None:
    faulty.server.kill()


def start_again(faulty: Faulty) -> None:
    faulty.server.start()


def take_memory(faulty: Faulty) -> None:
    with faulty.open() as jam:
        jam.redis.config_set("maxmemory", 1)


def give_memory(faulty: Faulty) -> None:
    with faulty.open() as jam:
        jam.redis.config_set("maxmemory", 0)


def fill_the_disk(faulty: Faulty) -> None:
    fill(faulty.server, faulty.directory, room=100)


def free_the_disk(faulty: Faulty) -> None:
    if faulty.server.process.poll() is None:
        free(faulty.server)
    else:  # with appendfsync always, Valkey ends where it cannot write
        faulty.server.start()


@pytest.mark.parametrize(
    ("harm", "mend"),
    quick_and_long(
        [(kill, start_again), (take_memory, give_memory), (fill_the_disk, free_the_disk)],
        # With its disk full, Valkey ends; with its memory full, it refuses writes.
        quick=[(kill, start_again)],
    ),
)
def test_an_import_that_the_store_stops_is_exit_code_3_and_the_next_has_all(
    faulty: Faulty,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Faulty], None],
    mend: Callable[[Faulty], None],
) -> None:
    seen: list[int] = []

    def told(done: int, total: int) -> None:
        if not seen:
            harm(faulty)
        seen.append(done)

    @contextmanager
    def bar(doing: str) -> Iterator[Progress]:
        yield told

    monkeypatch.setattr(exchange, "progress_bar", bar)
    stopped = faulty.run()
    monkeypatch.undo()

    assert seen == [EPISODES_PER_FLUSH]
    assert (stopped.exit_code, stopped.stdout) == (3, ""), stopped.output
    assert stopped.stderr.startswith("error: ")
    assert len(stopped.stderr.splitlines()) <= 2
    mend(faulty)
    with faulty.open() as jam:
        assert len(jam.episodes(run="back")) >= EPISODES_PER_FLUSH

    again = faulty.run()
    assert (again.exit_code, again.stdout) == (0, f"run back: {EPISODES} episodes\n"), again.output
    with faulty.open() as jam:
        found = jam.episodes(run="back")
        assert {(one.steps, one.status) for one in found.summaries()} == {(STEPS, "terminated")}
        first, last = found[0].data(), found[-1].data()
        assert len(found) == EPISODES
        assert is_same(first.observations, last.observations)
