"""Journals that are damaged, of somebody else, half removed, or read by several at once."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Server, Shared
from journals import copy_journal, journal_of, undead
from lengths import examples
from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, DiscreteEnv, play
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym import jamboree as jamboree_module
from jamboree_gym.connection import Connection
from jamboree_gym.delivery.outbox import RecordOutbox
from jamboree_gym.errors import StoreUnavailable
from jamboree_gym.journal import entry_log
from jamboree_gym.journal import journal as journal_module
from jamboree_gym.journal.dead import DeadJournal
from jamboree_gym.journal.journal import file_system_in
from jamboree_gym.journal.segments import SMALLEST_BYTES
from jamboree_gym.recording import recovery
from jamboree_gym.recording.recovery import deliver_dead_journals
from jamboree_gym.store.log import AppendResult

OpenJamboree = Callable[..., Jamboree]
HOUR_S = 3600.0


class Killed(BaseException):
    """Stands for a kill: what comes after it in the same process must not be called."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of the process that is killed."""
    return tmp_path / "home"


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """Where its journal is found; as a copy, of a writer of another Redis."""
    return tmp_path / "left"


@pytest.fixture
def other(other_valkey: Shared) -> str:
    """URL of that Redis."""
    return other_valkey.url


@pytest.fixture
def recording(open_jamboree: OpenJamboree, home: Path) -> Jamboree:
    """Delivers nothing by itself."""
    return open_jamboree(home=home, flush_interval_s=HOUR_S)


@pytest.fixture
def two_left(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, left: Path, other: str
) -> Path:
    """The journals of two writers, one with an episode, one with records."""
    play(recording.record(CountingEnv(length=100), run="r"), [ACTION] * 100)
    copy_journal(recording, home, left, other)
    saving = open_jamboree(home=home, flush_interval_s=HOUR_S)
    NoteHandler(saving, "left").save_many({"n": n} for n in range(600))
    copy_journal(saving, home, left, other)
    return left


def steps_in(jam: Jamboree) -> list[int]:
    return [summary.steps for summary in jam.episodes().summaries()]


def numbers_in(jam: Jamboree) -> list[int]:
    return [record["n"] for record in NoteHandler(jam, "left").many(10_000)]


def check_delivered(jam: Jamboree, home: Path) -> None:
    assert steps_in(jam) == [100]
    assert numbers_in(jam) == list(range(600))
    assert not list(journal_of(home).iterdir())


def test_records_in_a_block_that_was_used_before_come_after_older_ones(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    left: Path,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entry_log, "LARGEST_BYTES", SMALLEST_BYTES)  # a free block fits at once
    handler = NoteHandler(recording, "left")
    a_block = SMALLEST_BYTES // 1000

    def save(numbers: range) -> None:
        handler.save_many({"n": n, "text": "x" * 1000} for n in numbers)

    save(range(a_block + 2))
    recording.flush()
    save(range(a_block + 2, 3 * a_block))
    copy_journal(recording, home, left, other)
    found = open_jamboree(other, home=left)
    assert numbers_in(found) == list(range(a_block + 2, 3 * a_block))


def test_a_home_that_the_journal_has_made_is_closed_to_others(
    open_jamboree: OpenJamboree, home: Path
) -> None:
    before = os.umask(0o022)
    try:
        play(open_jamboree(home=home).record(CountingEnv(length=1), run="r"), [ACTION])
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700  # the embedded servers refuse another one


# -- killed while it delivers -------------------------------------------------------------------


def test_a_delivery_that_is_killed_anywhere_is_completed_by_the_next(
    open_jamboree: OpenJamboree,
    two_left: Path,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed before and after each append, and before and after each file is removed."""
    countdown = 0

    def mortal(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal countdown
            for moment in ("before", "after"):
                countdown -= 1
                if countdown == 0:
                    raise Killed
                if moment == "before":
                    result = real(*arguments, **named)
            return result

        return call

    with monkeypatch.context() as patched:
        patched.setattr(jamboree_module, "deliver_dead_journals", lambda connection: 0)
        victim = open_jamboree(other, home=two_left)
    monkeypatch.setattr(Connection, "append_whole", mortal(Connection.append_whole))
    monkeypatch.setattr(Path, "unlink", mortal(Path.unlink))
    killed_at = 0
    while any(journal_of(two_left).iterdir()):
        killed_at += 1
        countdown = killed_at
        with suppress(Killed):
            deliver_dead_journals(victim._connection)
        assert killed_at < 100, (list(journal_of(two_left).iterdir()), countdown)
    countdown = 0
    assert killed_at > 4
    check_delivered(open_jamboree(other, home=two_left), two_left)


def test_the_last_append_of_the_dead_may_arrive_while_its_journal_is_delivered(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    left: Path,
    other: str,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = NoteHandler(recording, "left")
    handler.save_many({"n": n} for n in range(10))
    (outbox,) = [one for one in recording._connection.opened.outboxes.all() if one.unsaved]
    outbox.seal()
    append = outbox.next_append()
    assert append is not None
    copy_journal(recording, home, left, other)
    late = open_jamboree(other, home=home)
    append_whole = Connection.append_whole

    def append_later(self: Connection, appends: Any) -> Any:
        monkeypatch.setattr(Connection, "append_whole", append_whole)
        late._connection.append_whole([append])
        return append_whole(self, appends)

    monkeypatch.setattr(Connection, "append_whole", append_later)
    assert numbers_in(open_jamboree(other, home=left)) == list(range(10))


def test_two_that_open_the_store_at_once_deliver_once(
    open_jamboree: OpenJamboree, two_left: Path, other: str
) -> None:
    opened: list[Jamboree] = []
    threads = [
        threading.Thread(target=lambda: opened.append(open_jamboree(other, home=two_left)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    check_delivered(opened[0], two_left)


# -- of somebody else, damaged ------------------------------------------------------------------


def lock_of(directory: Path) -> Path:
    return sorted(journal_of(directory).glob("*.lock"))[0]


def edit_lock(directory: Path, **changes: Any) -> None:
    for lock in journal_of(directory).glob("*.lock"):
        lock.write_text(json.dumps(json.loads(lock.read_text()) | changes))


@pytest.mark.parametrize(
    "changes", [{"namespace": "another"}, {"where": "elsewhere:6379"}, {"database": 7}]
)
def test_what_belongs_to_another_store_is_not_delivered(
    open_jamboree: OpenJamboree, two_left: Path, other: str, changes: dict[str, Any]
) -> None:
    edit_lock(two_left, **changes)
    before = sorted(journal_of(two_left).iterdir())
    jam = open_jamboree(other, home=two_left)
    assert steps_in(jam) == []
    assert numbers_in(jam) == []
    assert sorted(journal_of(two_left).iterdir()) == before


LOCKS = [
    *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5000, b"1" * 70_000),
    *(b'{"version": 1}', b'{"version": 2}', b'{"version": 1, "writer": 5}'),
    b'{"version": 1, "writer": "..", "where": 1, "database": 1, "namespace": 1, "more": 1}',
]


@pytest.mark.parametrize("content", LOCKS)
def test_a_lock_file_that_cannot_be_read_is_left_alone(
    open_jamboree: OpenJamboree,
    two_left: Path,
    other: str,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    foreign = journal_of(two_left) / "0000.lock"
    foreign.write_bytes(content)
    foreign.chmod(0o600)
    jam = open_jamboree(other, home=two_left)
    assert steps_in(jam) == [100]
    assert numbers_in(jam) == list(range(600))
    assert list(journal_of(two_left).iterdir()) == [foreign]
    assert "0000.lock" in caplog.text


def test_no_damage_keeps_a_jamboree_from_opening(
    open_jamboree: OpenJamboree,
    two_left: Path,
    tmp_path: Path,
    other: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bytes are changed, and files cut, by chance."""
    choose = random.Random(0)
    for number in range(examples(500)):
        damaged = tmp_path / f"damaged{number}"
        shutil.copytree(two_left, damaged)
        path = choose.choice([p for p in sorted(journal_of(damaged).iterdir())])
        content = bytearray(path.read_bytes())
        used = choose.choice([64, 256, 4096, len(content)])
        for _ in range(choose.randint(1, 8)):
            content[choose.randrange(min(used, len(content)))] = choose.choice([0, 1, 255, 77])
        if choose.random() < 0.3:
            del content[choose.randrange(len(content)) :]
        path.write_bytes(content)
        open_jamboree(other, home=damaged).close()
        shutil.rmtree(damaged)


@pytest.mark.parametrize("damage", ["cut", "no segment", "another version"])
def test_a_damaged_journal_is_named_and_left_alone_and_the_others_are_delivered(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    two_left: Path,
    other: str,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = recording._connection.writer_name  # of the episode
    for path in journal_of(two_left).glob(f"{writer}.[0-9]*"):
        content = bytearray(path.read_bytes())
        if damage == "no segment":
            content[0] = 0
        elif damage == "another version":
            content[8] = 99
        path.write_bytes(content[: 200 if damage == "cut" else None])
    kept = sorted(journal_of(two_left).glob(f"{writer}.*"))
    jam = open_jamboree(other, home=two_left)
    assert steps_in(jam) == []
    assert numbers_in(jam) == list(range(600))
    assert writer in caplog.text
    assert sorted(undead(path) for path in journal_of(two_left).iterdir()) == kept


@pytest.mark.parametrize("content", [b"", bytes(1 << 16), b"JGYMJRNL" + bytes((1 << 16) - 8)])
def test_a_file_that_was_being_made_hides_nothing(
    open_jamboree: OpenJamboree, two_left: Path, other: str, content: bytes
) -> None:
    """Killed before its header was written."""
    for lock in journal_of(two_left).glob("*.lock"):
        lock.with_suffix(".99").write_bytes(content)
    check_delivered(open_jamboree(other, home=two_left), two_left)


def test_a_header_that_was_being_written_hides_nothing(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, left: Path, other: str
) -> None:
    """Killed after the first words of an extent were written."""
    play(recording.record(CountingEnv(length=5), run="r"), [ACTION] * 5)
    copy_journal(recording, home, left, other)
    writer = recording._connection.writer_name
    found = 0
    for path in journal_of(left).glob(f"{writer}.[0-9]*"):
        content = bytearray(path.read_bytes())
        at = content.find(b"rows")
        if at < 0:
            continue
        end = _end_of_rows(content)
        content[end : end + 40] = (
            content[at : at + 4] + bytes(12) + content[at + 16 : at + 20] + (bytes(20))
        )
        path.write_bytes(content)
        found += 1
    assert found == 1
    assert steps_in(open_jamboree(other, home=left)) == [5]


def _end_of_rows(content: bytes) -> int:
    """Where the next extent of a block would be: behind the last byte that is not 0 in front."""
    last = content.rindex(ACTION.tobytes()) + ACTION.nbytes
    return last + -last % 8


# -- after the machine was restarted --------------------------------------------------------------

PAGE_BYTES = 4096


def test_after_a_restart_of_the_machine_a_journal_is_kept_and_delivered_when_told_to(
    open_jamboree: OpenJamboree,
    two_left: Path,
    other: str,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    edit_lock(two_left, boot="before")
    kept = sorted(journal_of(two_left).iterdir())
    jam = open_jamboree(other, home=two_left)
    assert steps_in(jam) == []
    assert numbers_in(jam) == []
    assert sorted(journal_of(two_left).iterdir()) == kept
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2  # of each writer
    assert f"recovery --restarted --home {two_left} --redis-url URL" in said[0]

    assert recovery.main(["--restarted", "--home", str(two_left), "--redis-url", other]) == 0
    check_delivered(jam, two_left)


def test_what_was_delivered_before_a_restart_is_removed_after_it(
    open_jamboree: OpenJamboree, two_left: Path, other: str
) -> None:
    edit_lock(two_left, boot="before", is_delivered=True)
    assert steps_in(open_jamboree(other, home=two_left)) == []
    assert not list(journal_of(two_left).iterdir())


def lose_pages(directory: Path, choose: random.Random) -> None:
    """As a power cut may leave a journal: some pages were never written."""
    pages = [
        (path, at)
        for path in sorted(journal_of(directory).glob("*.[0-9]*"))
        for at in range(0, path.stat().st_size, PAGE_BYTES)
        if any(path.read_bytes()[at : at + PAGE_BYTES])
    ]
    for path, where in choose.sample(pages, choose.randint(1, 4)):
        with path.open("r+b") as file:
            file.seek(where)
            file.write(bytes(PAGE_BYTES))


def test_of_a_journal_that_lost_pages_only_rows_before_them_are_delivered(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, left: Path, other: str
) -> None:
    env = recording.record(CountingEnv(length=10**9), run="r")
    play(env, [ACTION] * 1500)
    choose = random.Random(0)
    looking = open_jamboree(other, home=left)
    found = set()
    for _ in range(examples(150)):
        copy_journal(recording, home, left, other)
        edit_lock(left, boot="before")
        lose_pages(left, choose)
        deliver_dead_journals(looking._connection, is_restarted=True)
        for episode in looking.episodes():
            data = episode.data()
            assert data.observations[:, 0].tolist() == list(range(len(data) + 1))
            assert np.all(data.actions == ACTION)
            assert np.all(np.diff(data.timestamps) > 0)
            found.add(len(data))
        looking.redis.flushdb()  # a deleted episode would not come again
        shutil.rmtree(journal_of(left))
    assert len(found) > 3


def test_a_record_is_there_once_of_which_the_journal_lost_that_it_was_delivered(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, left: Path, other: str
) -> None:
    before = open_jamboree(other)
    NoteHandler(before, "left").save({"n": 5})  # so that the others get another index
    before.flush()
    NoteHandler(recording, "left").save_many({"n": n} for n in range(5))
    copy_journal(recording, home, left, other)
    jam = open_jamboree(other, home=left)
    assert numbers_in(jam) == [5, *range(5)]

    NoteHandler(recording, "left").save({"n": 6})  # so that they are no batch as before
    copy_journal(recording, home, left, other)  # with the pages of before
    edit_lock(left, boot="before")
    assert deliver_dead_journals(jam._connection, is_restarted=True) == 1
    assert numbers_in(jam) == [5, *range(5), 6]


@pytest.mark.usefixtures("as_processes")
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_record_is_not_taken_for_one_that_was_moved_to_the_time_at_which_it_was_saved(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    valkey: Server,
    home: Path,
    left: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_restarted: bool,
) -> None:
    handler = NoteHandler(recording, "left")
    handler.save({"n": 1})
    others = NoteHandler(open_jamboree(), "left")
    others.save({"n": 0})
    (of_others,) = others.many(1)  # note 1 follows it, at the next time that there is

    settle = RecordOutbox.settle

    def save_then(outbox: RecordOutbox, result: AppendResult) -> None:
        monkeypatch.setattr(RecordOutbox, "settle", settle)
        monkeypatch.setattr(
            outbox, "_clock", lambda: math.nextafter(of_others["timestamp"], math.inf)
        )
        handler.save({"n": 2})
        outbox.settle(result)

    monkeypatch.setattr(RecordOutbox, "settle", save_then)
    recording.flush()
    copy_journal(recording, home, left, valkey.url)
    if is_restarted:
        edit_lock(left, boot="before")
    jam = open_jamboree(home=left)
    deliver_dead_journals(jam._connection, is_restarted=is_restarted)
    assert numbers_in(jam) == [0, 1, 2]


@pytest.mark.usefixtures("as_processes")
def test_a_record_that_was_moved_is_known_after_somebody_has_taken_it_off(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    valkey: Server,
    home: Path,
    left: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has another index and another time there than those with which it was saved."""
    NoteHandler(recording, "left").save({"n": 1})
    others = NoteHandler(open_jamboree(write="sync"), "left")
    others.save({"n": 0})
    settle = RecordOutbox.settle

    def die_before(outbox: RecordOutbox, result: AppendResult) -> None:
        if result.stored:
            copy_journal(recording, home, left, valkey.url)
        settle(outbox, result)

    monkeypatch.setattr(RecordOutbox, "settle", die_before)
    recording.flush()
    assert [one["n"] for one in others.pop(2)] == [0, 1]
    assert numbers_in(open_jamboree(home=left)) == []


def test_an_end_that_the_journal_has_lost_is_known_where_only_the_backup_has_it(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    mongo: Server,
    home: Path,
    left: Path,
    other: str,
    tmp_path: Path,
) -> None:
    env = recording.record(CountingEnv(length=9), run="r")
    play(env, [ACTION])
    episode = env.episode_id
    copy_journal(recording, home, left, other)  # as it is on the disk after a power cut
    edit_lock(left, boot="before")
    env.reset()
    copy_journal(recording, home, tmp_path / "whole", other)
    options: dict[str, Any] = {"mongo_url": mongo.url, "backup": False}
    jam = open_jamboree(other, home=tmp_path / "whole", **options)
    assert jam.episode(episode).summary.status == "abandoned"
    jam.backup.flush()
    jam.redis.flushdb()

    jam = open_jamboree(other, home=left, **options)
    assert deliver_dead_journals(jam._connection, is_restarted=True) == 1
    assert jam.episode(episode).summary.status == "abandoned"


# -- deleted, emptied ---------------------------------------------------------------------------


def test_a_record_whose_delivery_broke_off_is_delivered_by_the_next(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    left: Path,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = NoteHandler(recording, "left")
    notes.save_many({"n": n} for n in range(3))
    copy_journal(recording, home, left, other)
    jam = open_jamboree(other, home=left)  # has some of this writer already
    recording.flush()
    notes.save({"n": 3})
    copy_journal(recording, home, left, other)

    def break_off(*_: object) -> None:
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as away:
        away.setattr(Connection, "append_whole", break_off)
        assert deliver_dead_journals(jam._connection) == 0
    assert deliver_dead_journals(jam._connection) == 1
    assert numbers_in(jam) == list(range(4))


@pytest.mark.parametrize("has_backup", [False, True])
def test_an_episode_that_arrived_unheard_and_was_deleted_does_not_come_back(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    mongo: Server,
    home: Path,
    left: Path,
    other: str,
    has_backup: bool,
) -> None:
    env = recording.record(CountingEnv(length=100), run="r")
    play(env, [ACTION] * 3)
    copy_journal(recording, home, left, other)
    jam = open_jamboree(other, mongo_url=mongo.url if has_backup else None, home=left)
    jam.episode(env.episode_id).delete()

    copy_journal(recording, home, left, other)  # nothing in it says that it has arrived
    assert deliver_dead_journals(jam._connection) == 1
    assert steps_in(jam) == []


def test_a_deleted_episode_does_not_come_back(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    left: Path,
    other: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = recording.record(CountingEnv(length=10**9), run="r")
    play(env, [ACTION] * 3)
    recording.episode(env.episode_id).delete()
    for _ in range(3000):  # more than a block holds
        env.step(ACTION)
    copy_journal(recording, home, left, other)
    jam = open_jamboree(other, home=left)
    assert steps_in(jam) == []
    assert "ERROR" not in [record.levelname for record in caplog.records]


def test_an_episode_that_is_deleted_before_its_first_action_does_not_come_back(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, left: Path, other: str
) -> None:
    env = recording.record(DiscreteEnv(length=10**9), run="r")
    env.reset()
    recording.episode(env.episode_id).delete()
    env.step("left")  # another layout: the reset's row is written again
    copy_journal(recording, home, left, other)
    assert steps_in(open_jamboree(other, home=left)) == []


def test_an_episode_that_somebody_else_has_deleted_does_not_come_back(
    recording: Jamboree, open_jamboree: OpenJamboree, home: Path, left: Path, other: str
) -> None:
    env = recording.record(CountingEnv(length=100), run="r")
    play(env, [ACTION] * 3)
    recording.flush()
    env.step(ACTION)
    copy_journal(recording, home, left, other)
    assert steps_in(open_jamboree(other, home=left)) == []  # there, it has never been


def test_of_an_emptied_redis_the_log_says_what_cannot_be_added(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    left: Path,
    other: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = recording.record(CountingEnv(length=4), run="r")
    play(env, [ACTION] * 2)
    recording.flush()
    first = env.episode_id
    play(recording.record(CountingEnv(length=4), run="r"), [ACTION] * 4)
    env.step(ACTION)
    copy_journal(recording, home, left, other)
    jam = open_jamboree(other, home=left)
    assert steps_in(jam) == [4]
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert first in error.getMessage()
    assert "its first 3 rows are no longer in Redis" in error.getMessage()
    assert not list(journal_of(left).iterdir())


# -- where there can be no journal --------------------------------------------------------------


def a_file_in_its_place(home: Path) -> None:
    home.mkdir(mode=0o700)
    journal_of(home).write_text("not a directory")


def open_to_others(home: Path) -> None:
    journal_of(home).mkdir(parents=True)
    journal_of(home).chmod(0o755)


@pytest.mark.parametrize("prepare", [a_file_in_its_place, open_to_others])
def test_where_no_journal_can_be_one_warning_says_so_and_recording_goes_on(
    open_jamboree: OpenJamboree,
    home: Path,
    prepare: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare(home)
    jam = open_jamboree(home=home)
    for _ in range(3):
        play(jam.record(CountingEnv(length=4), run="r"), [ACTION] * 4)
    NoteHandler(jam, "left").save({"n": 0})
    jam.flush()
    assert steps_in(jam) == [4] * 3
    assert numbers_in(jam) == [0]
    (warned,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "no journal in" in warned.getMessage()
    assert not jam._connection.journal.is_durable()


MOUNTS = (
    rb"""22 1 0:20 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /data rw shared:2 - nfs4 server:/data rw
31 30 0:31 / /data/local\040disk rw shared:3 - xfs /dev/sdb rw
32 22 0:32 / /media/donn\303\251es rw - cifs //server/share rw
33 22 0:33 / /media/"""
    + b"\xff\xc3\xa9 rw - 9p drive rw\n"
)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv", "ext4"),
        ("/data/me/journal", "nfs4"),
        ("/datas", "ext4"),
        ("/data/local disk/journal", "xfs"),
        ("/media/données/journal", "cifs"),
        (os.fsdecode(b"/media/\xff\xc3\xa9/journal"), "9p"),
    ],
)
def test_the_file_system_of_a_directory_is_that_of_the_innermost_mount(
    path: str, kind: str
) -> None:
    assert file_system_in(MOUNTS, Path(path)) == kind


def test_on_a_network_file_system_there_is_no_journal(
    open_jamboree: OpenJamboree,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(journal_module, "file_system_in", lambda mounts, place: "nfs4")
    jam = open_jamboree(home=home)
    play(jam.record(CountingEnv(length=4), run="r"), [ACTION] * 4)
    assert "it is on another machine: nfs4" in caplog.text
    assert not list(journal_of(home).iterdir())
    assert steps_in(jam) == [4]


# -- what cannot be delivered now -----------------------------------------------------------------


def test_what_a_log_cannot_take_now_stays_in_the_journal_and_comes_later(
    open_jamboree: OpenJamboree,
    recording: Jamboree,
    home: Path,
    left: Path,
    other: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = (recording.record(CountingEnv(length=9), run="r") for _ in range(2))
    for env in (first, second):
        play(env, [ACTION] * 9)
    copy_journal(recording, home, left, other)
    looking = open_jamboree(other, home=home)
    key = looking._connection.keyspace.episode(first.episode_id)
    looking.redis.set(at(looking, key), "of somebody else")

    jam = open_jamboree(other, home=left)

    assert "could not be delivered, and stays there" in caplog.text
    assert first.episode_id in caplog.text
    assert list(journal_of(left).iterdir())
    assert [one.id for one in jam.episodes().summaries()] == [second.episode_id]

    looking.redis.delete(at(looking, key))
    jam = open_jamboree(other, home=left)
    assert {one.id for one in jam.episodes().summaries()} == {first.episode_id, second.episode_id}
    assert not list(journal_of(left).iterdir())


def test_an_episode_that_is_damaged_does_not_keep_others_from_being_delivered(
    recording: Jamboree,
    open_jamboree: OpenJamboree,
    home: Path,
    left: Path,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    play(recording.record(DiscreteEnv()), [0] * 3)
    play(recording.record(CountingEnv(length=9)), [ACTION] * 9)
    copy_journal(recording, home, left, other)
    read, ids = DeadJournal.read, list[str]()

    def read_damaged(journal: DeadJournal) -> None:
        read(journal)
        damaged, whole = journal.episodes.values()
        ids.extend([damaged.id, whole.id])
        for name in damaged.digests:
            del journal.blobs[name]

    monkeypatch.setattr(DeadJournal, "read", read_damaged)
    jam = open_jamboree(other, home=left)

    assert f"{ids[0]}}}: what is left of it is damaged" in caplog.text
    assert [one.id for one in jam.episodes().summaries()] == ids[1:]


@pytest.mark.parametrize("write", ["sync", "fsync"])
def test_whoever_opens_the_store_delivers_in_whatever_mode(
    open_jamboree: OpenJamboree, two_left: Path, other: str, write: str
) -> None:
    check_delivered(open_jamboree(other, home=two_left, write=write), two_left)


def test_a_home_that_is_named_from_here_stays_where_it_is(
    open_jamboree: OpenJamboree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAMBOREE_HOME", "here")
    jam = open_jamboree(flush_interval_s=HOUR_S)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    play(jam.record(CountingEnv(length=9)), [ACTION] * 9)

    assert list(journal_of(tmp_path / "here").glob("*.lock"))
    assert not list(elsewhere.iterdir())
