"""A training loop whose connection to Redis is slow, cut, half closed or a black hole.

The loop goes on, nothing is lost or recorded twice, one warning says what is wrong, whoever waits
for Redis is told so in the end, and `close` does not hang.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from conftest import Server
from processes import NoteHandler, wait_until
from proxy import Ending, Proxy
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import StoreUnavailable, UnsavedRecords

pytestmark = [
    pytest.mark.faults,
    pytest.mark.once,
    pytest.mark.usefixtures("soon_again"),
    pytest.mark.one_server,
]  # by one proxy

EPISODE_STEPS = 20
ANSWER_TIMEOUT_S = 0.5  # for these tests; else 5 s


class Loop:
    """What a training script does, without the training."""

    def __init__(self, jam: Jamboree) -> None:
        self.jam = jam
        self.env = jam.record(CountingEnv(length=EPISODE_STEPS), run="loop")
        self.notes = NoteHandler(jam, "loop")
        self.episodes = 0

    def play(self, episodes: int = 1) -> None:
        """So many whole episodes, and a note about each."""
        for _ in range(episodes):
            self.env.reset()
            for _ in range(EPISODE_STEPS):
                self.env.step(ACTION)
            self.notes.save({"n": self.episodes})
            self.episodes += 1

    def play_until(self, condition: Callable[[], object]) -> None:
        """Play on until something is so, with pauses: each episode is looked at in the end."""

        def is_so() -> object:
            self.play()
            time.sleep(0.01)
            return condition()

        wait_until(is_so)

    def flush(self) -> None:
        """Deliver all; on a busy machine, more than one answer comes too late."""
        self.jam.flush(timeout_s=60)

    def check(self, reader: Jamboree) -> None:
        """All of it is there, once, in order."""
        found = reader.episodes(run="loop").summaries()
        assert [one.steps for one in found] == [EPISODE_STEPS] * self.episodes
        assert {one.status for one in found} == {"terminated"}
        for one in found:
            data = reader.episode(one.id).data()
            assert np.array_equal(data.observations[:, 0], np.arange(EPISODE_STEPS + 1))
        notes = NoteHandler(reader, "loop").many(10**6)
        assert [note["n"] for note in notes] == list(range(self.episodes))
        assert [note["index"] for note in notes] == list(range(self.episodes))


@pytest.fixture(autouse=True)
def hear_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jamboree_gym")


def impatient(proxy: Proxy) -> str:
    """The URL of the proxy, for who does not wait long for an answer."""
    return f"{proxy.url}?socket_timeout={ANSWER_TIMEOUT_S}"


@pytest.fixture
def proxy(valkey: Server) -> Iterator[Proxy]:
    with Proxy(valkey.url) as opened:
        yield opened


@pytest.fixture
def patient_loop(proxy: Proxy, namespace: str) -> Iterator[Loop]:
    """It waits for an answer for longer than any machine is busy."""
    jam = Jamboree(f"{proxy.url}?socket_timeout=60", namespace=namespace)
    yield Loop(jam)
    jam.close()


@pytest.fixture
def loop(proxy: Proxy, namespace: str) -> Iterator[Loop]:
    jam = Jamboree(impatient(proxy), namespace=namespace)
    yield Loop(jam)
    jam.close()


@pytest.fixture
def reader(open_jamboree: Callable[..., Jamboree]) -> Jamboree:
    """Reads past the proxy."""
    return open_jamboree()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


@contextmanager
def outage(loop: Loop, caplog: pytest.LogCaptureFixture, said: str) -> Iterator[None]:
    """Around it: all was delivered; in it: the loop goes on and says once what is wrong."""
    loop.play(5)
    loop.flush()
    caplog.clear()  # on a busy machine, an answer may have come late before
    yield
    loop.play_until(lambda: warnings(caplog))
    loop.play(50)
    assert said in warnings(caplog)[0]
    assert "waits in memory" in warnings(caplog)[0]
    with pytest.raises(UnsavedRecords) as caught:
        loop.jam.flush(timeout_s=0.1)
    unsaved = loop.jam._connection.writer.unsaved
    assert caught.value.unsaved == unsaved >= 50 * EPISODE_STEPS
    assert f"{unsaved} records are not in Redis: Redis at 127.0.0.1" in str(caught.value)
    assert len(warnings(caplog)) == 1


@pytest.mark.long  # beside a slow line, and a black hole whose answers come late
def test_answers_that_come_late_lose_nothing(
    patient_loop: Loop, proxy: Proxy, reader: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    loop = patient_loop
    proxy.down.latency_s = 0.1
    loop.play(200)
    loop.flush()

    loop.check(reader)
    assert not warnings(caplog)


def test_a_slow_line_loses_nothing(
    patient_loop: Loop, proxy: Proxy, reader: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    loop = patient_loop
    loop.play(5)
    loop.flush()
    proxy.up.bytes_per_s = 1000
    loop.play(100)
    assert loop.jam._connection.writer.unsaved > 0
    proxy.up.bytes_per_s = 400_000
    loop.flush()

    loop.check(reader)
    assert not warnings(caplog)


@pytest.mark.long  # for the client, the same as the black hole below
def test_a_line_too_slow_for_an_answer_in_time_loses_nothing(
    loop: Loop, proxy: Proxy, reader: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    with outage(loop, caplog, "did not answer in time"):
        proxy.up.bytes_per_s = 1000
    proxy.up.bytes_per_s = float("inf")
    loop.flush()

    loop.check(reader)


@pytest.mark.parametrize("ending", ["fin", "rst"])
def test_a_connection_that_is_cut_all_the_time_loses_nothing(
    loop: Loop, proxy: Proxy, reader: Jamboree, ending: Ending
) -> None:
    for number in range(30):
        lane = proxy.up if number % 2 else proxy.down
        lane.cut_after(number * 37, ending)
        loop.play(5)
        if number % 3:
            proxy.cut(ending)
    proxy.up.forget_cut()
    proxy.down.forget_cut()
    loop.flush()

    loop.check(reader)


def test_a_connection_cut_at_each_try_is_an_outage_and_loses_nothing(
    loop: Loop, proxy: Proxy, reader: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    with outage(loop, caplog, "cannot be reached"):
        proxy.refuse()
        proxy.cut("rst")
    proxy.accept()
    loop.flush()

    loop.check(reader)


@pytest.mark.long  # a black hole is this in both directions
def test_a_line_on_which_no_more_answers_come_is_given_up_and_loses_nothing(
    loop: Loop, proxy: Proxy, reader: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    """The server does what it is told to, and we do not hear of it."""
    with outage(loop, caplog, "did not answer in time"):
        proxy.down.hold()
    proxy.down.release()
    loop.flush()

    loop.check(reader)


def test_a_line_whose_answers_have_ended_is_opened_anew(
    patient_loop: Loop, proxy: Proxy, reader: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    loop = patient_loop
    loop.play(5)
    loop.flush()
    accepted = proxy.accepted
    proxy.down.end()
    loop.play(50)
    wait_until(lambda: loop.jam._connection.writer.unsaved == 0)

    loop.check(reader)
    assert proxy.accepted > accepted
    assert not warnings(caplog)


@pytest.mark.long  # the one above ends in the other direction
def test_a_line_on_which_the_server_hears_nothing_more_is_opened_anew(
    loop: Loop, proxy: Proxy, reader: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    loop.play(5)
    loop.flush()
    proxy.up.end()
    loop.play(50)
    wait_until(lambda: loop.jam._connection.writer.unsaved == 0)

    loop.check(reader)
    assert not warnings(caplog)


def test_a_black_hole_is_given_up_and_what_it_took_counts_once(
    loop: Loop, proxy: Proxy, reader: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    with outage(loop, caplog, "did not answer in time"):
        proxy.hold()
    proxy.release()  # what was sent in vain arrives now, late
    loop.flush()

    loop.check(reader)
    wait_until(lambda: "answers again" in caplog.text)


@pytest.mark.timeout(30)
@pytest.mark.long  # test_writer.py has it of a server that is away
def test_close_before_a_black_hole_says_what_is_lost_and_ends(proxy: Proxy, namespace: str) -> None:
    jam = Jamboree(impatient(proxy), namespace=namespace)
    loop = Loop(jam)
    loop.play(5)
    jam.flush()
    proxy.hold()
    loop.play()
    with pytest.raises(UnsavedRecords, match=f"{EPISODE_STEPS + 2} records are not in Redis"):
        jam.close(timeout_s=1.0)
    proxy.release()


def test_a_black_hole_is_not_waited_for_at_the_start(proxy: Proxy, namespace: str) -> None:
    proxy.hold()
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        Jamboree(impatient(proxy), namespace=namespace)
    proxy.release()


def test_a_read_from_a_black_hole_says_so(loop: Loop, proxy: Proxy) -> None:
    loop.play()
    loop.flush()
    proxy.hold()
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        loop.notes.last()
    proxy.release()


def test_the_step_is_not_held_up_by_a_black_hole(
    loop: Loop, proxy: Proxy, reader: Jamboree
) -> None:
    """Beside a server that answers nothing, hundreds of episodes pass within one time-out."""
    loop.play()
    loop.flush()
    proxy.hold()
    before = loop.jam._connection.store.losses
    loop.play(20)

    assert loop.jam._connection.store.losses == before
    proxy.release()
    loop.flush()
    loop.check(reader)
