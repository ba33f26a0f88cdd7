"""Redis is killed with -9 and started again, over and over, while a process records at full speed.

How often is said by the environment variable JAMBOREE_KILLED_REDIS; `make faults` kills each kind
of server 50 times.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import REDIS_PROGRAMS, Server, StartRedis
from lengths import quick_and_long
from playing import Player, check_is_as_played, wait_for_appends
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import StoreUnavailable

pytestmark = [pytest.mark.faults, pytest.mark.once]

KILLS = int(os.environ.get("JAMBOREE_KILLED_REDIS", "3"))
THOROUGH = "JAMBOREE_KILLED_REDIS" in os.environ
SERVERS = [(kind, write) for write in ("buffered", "sync") for kind in sorted(REDIS_PROGRAMS)]
if not THOROUGH:
    SERVERS = [("valkey9", "buffered"), ("valkey9", "sync")]
# test_life.py has a short form of the other.
SERVERS = quick_and_long(SERVERS, quick=[("valkey9", "sync")])
# Appends between a start and the next kill, at most: in `sync` mode each step is one.
APPENDS = {"buffered": 40 if THOROUGH else 10, "sync": 300}


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def kill_again_and_again(server: Server, jam: Jamboree, appends: int) -> None:
    for _ in range(KILLS):
        wait_for_appends(jam, random.randint(1, appends))
        server.kill()
        server.start()
        jam.redis.close()  # a child of the killed server that rewrites its file holds connections
    wait_for_appends(jam, appends)


@pytest.mark.timeout(120 + 10 * KILLS)
@pytest.mark.parametrize(("kind", "write"), SERVERS)
def test_a_killed_redis_loses_no_step_and_repeats_none(
    start_own_redis: StartRedis,
    namespace: str,
    tmp_path: Path,
    opened: ExitStack,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    write: str,
) -> None:
    server = start_own_redis(kind, "--appendfsync", "always")
    jam = opened.enter_context(Jamboree(server.url, namespace=namespace))
    player = Player(server.url, namespace, tmp_path, write=write)
    opened.callback(player.kill)
    kill_again_and_again(server, jam, APPENDS[write])
    played, refused, _ = player.stop()

    episodes = check_is_as_played(jam, played)
    assert len(list(jam._connection.redis_store.log_keys())) == episodes
    with capsys.disabled():
        print(
            f"\n{kind} killed {KILLS} times, write={write!r}: {len(played) - episodes} steps of "
            f"{episodes} episodes, {refused} calls that were not confirmed"
        )


@pytest.mark.parametrize("write", ["buffered", "sync"])
def test_what_a_killed_redis_had_not_written_of_an_episode_is_sent_again(
    start_own_redis: StartRedis, namespace: str, write: str
) -> None:
    server = start_own_redis("valkey9", "--appendfsync", "everysec")
    with Jamboree(server.url, namespace=namespace, write=write) as jam:
        directory = Path(str(jam.redis.config_get("dir")["dir"]))
        (written,) = directory.rglob("*.incr.aof")
        env = jam.record(CountingEnv(length=9))
        env.reset()
        env.step(ACTION)
        jam.flush()
        jam.redis.set("until here", 1)
        assert jam.redis.execute_command("WAITAOF", 1, 0, 30_000)[0] == 1
        size = written.stat().st_size
        for _ in range(3):
            env.step(ACTION)
            jam.flush()
        server.kill()
        os.truncate(written, size)  # while its disk is busy, it writes later than it answers
        server.start()
        with Jamboree(server.url, namespace=namespace) as other:
            assert len(other.episode(env.episode_id).data()) == 1
        for _ in range(5):
            env.step(ACTION)
        jam.flush()

        found = jam.episode(env.episode_id)
        assert found.data().observations[:, 0].tolist() == [*range(10)]
        assert (found.status, found.summary.steps) == ("terminated", 9)


def test_an_episode_has_ended_though_its_last_step_was_not_confirmed(
    durable_valkey: Server, namespace: str
) -> None:
    with Jamboree(durable_valkey.url, namespace=namespace, write="sync") as jam:
        env = jam.record(CountingEnv(length=1))
        env.reset()
        durable_valkey.kill()
        with pytest.raises(StoreUnavailable):
            env.step(ACTION)
        durable_valkey.start()
        env.reset()

        found = jam.episodes().summaries()
        assert [(one.status, one.steps) for one in found] == [("terminated", 1), ("running", 0)]
