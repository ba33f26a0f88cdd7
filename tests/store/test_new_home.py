"""A new home: nobody waits for a MongoDB that has never held anything."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from embedded_home import new_home, processes_of, wait_until
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play

from jamboree_gym import EpisodeNotFound, Jamboree
from jamboree_gym.servers.embedded import stop_servers


@pytest.fixture
def home() -> Iterator[Path]:
    with new_home() as made:
        yield made


def recorded(jam: Jamboree) -> str:
    """The id of a short episode of run `first`."""
    with jam.record(CountingEnv(), run="first") as env:
        play(env, [ACTION] * 3)
        return str(env.episode_id)


def frozen_mongo(home: Path) -> psutil.Process:
    """The Mongo server of a home, stopped in its first start: it cannot answer."""

    def servers() -> list[psutil.Process]:
        return [one for one in processes_of(home) if "secantus" in one.cmdline()]

    wait_until(lambda: bool(servers()))
    (mongo,) = servers()
    mongo.send_signal(signal.SIGSTOP)
    return mongo


def test_reads_do_not_wait_for_a_mongo_that_starts_for_the_first_time(home: Path) -> None:
    with Jamboree(home=home, backup=True, backup_interval_s=0.1) as jam:
        episode_id = recorded(jam)
        jam.flush()
        mongo = frozen_mongo(home)

        last = jam.episodes().last()
        assert last is not None
        rows = last.data()
        assert last.id == episode_id
        assert jam.run("first").history == []
        assert last.children == []
        with pytest.raises(EpisodeNotFound):
            jam.episode("absent").data()
        NoteHandler(jam, "n").save({"n": 1})
        assert NoteHandler(jam, "none").count() == 0
        jam.episode(recorded(jam)).delete()
        with Jamboree(home=home, backup=False) as other:
            assert len(other.episodes(run="first")) == 1

        mongo.send_signal(signal.SIGCONT)
        jam.backup.flush()
        jam._connection.redis_store.client.flushall()

        last = jam.episodes().last()
        assert last is not None
        assert (last.data().rewards == rows.rewards).all()
        assert len(jam.episodes()) == 1
        assert NoteHandler(jam, "n").count() == 1


@pytest.mark.long  # test_read_through.py has it of embedded servers, too
def test_what_was_copied_is_found_in_an_emptied_redis_after_a_restart(home: Path) -> None:
    with Jamboree(home=home, backup=False) as jam:
        episode_id = recorded(jam)
        jam.backup.flush()
        jam._connection.redis_store.client.flushall()
    stop_servers(home)

    with Jamboree(home=home, backup=False) as jam:
        assert jam.episodes().ids() == [episode_id]
