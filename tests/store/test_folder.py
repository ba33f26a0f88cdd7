"""The backup in a folder: cut, damaged, killed, compacted, full, read-only, gone, or too new."""

from __future__ import annotations

import errno
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from backup_contract import BORN, batch, content, grow, head, insert, key_of, new_log, read
from filelock import FileLock
from lengths import quick_and_long
from warm import start_warm

from jamboree_gym.encoding.batch_format import Head
from jamboree_gym.errors import DecodeError, InvalidUrl, StoreFull
from jamboree_gym.keys import digest
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.backups.reader import checked_chain, stored_logs
from jamboree_gym.store.folder import sections, segments, state
from jamboree_gym.store.folder.store import FolderStore

NAMESPACE = "space"
HERE = Path(__file__).parent
FIRST = "00000001.0000.segment"

Open = Callable[..., FolderStore]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def open_folder(folder: Path) -> Iterator[Open]:
    opened: list[FolderStore] = []

    def open_one(where: Path = folder) -> FolderStore:
        opened.append(FolderStore.from_url(where.as_uri(), NAMESPACE))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def segments_of(folder: Path) -> list[Path]:
    return sorted((folder / NAMESPACE).glob("*.segment"))


def check_all(store: FolderStore) -> set[str]:
    """Read everything; return the keys of the logs that are whole."""
    whole = set()
    for key, log in stored_logs(store, list(store.keys())):
        assert isinstance(log, tuple), log
        whole |= {key for _ in checked_chain(log[1], log[0], where=key)}
    return whole


def fill(store: FolderStore, first: int, count: int, *, size: int = 20) -> list[str]:
    """Insert logs, each by itself."""
    keys = [key_of(number) for number in range(first, first + count)]
    for key in keys:
        assert insert(store, {key: new_log(batch(0, 2, size=size), run="a")}) == ({}, set())
    return keys


# -- what a killed writer leaves ------------------------------------------------------------------


@pytest.mark.parametrize("every", quick_and_long([41, 1], quick=[41]))
def test_a_segment_cut_at_any_byte_keeps_every_whole_record_and_takes_new_ones(
    folder: Path, open_folder: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # 2,000 times, and no power is cut
    store = open_folder()
    ends = {}
    for number in range(2):
        (key,) = fill(store, number, 1, size=5)
        ends[key] = segments_of(folder)[0].stat().st_size
    store.delete([(key_of(0), BORN)])
    deleted_at = segments_of(folder)[0].stat().st_size
    (path,) = segments_of(folder)
    whole = path.read_bytes()
    cut = tmp_path / "cut"
    (cut / NAMESPACE).mkdir(parents=True)
    for size in range(len(whole) + 1):
        (cut / NAMESPACE / FIRST).write_bytes(whole[:size])
        expected = {key for key, end in ends.items() if end <= size}
        if size >= deleted_at:
            expected.discard(key_of(0))
        with_cut = open_folder(cut)
        assert check_all(with_cut) == expected, size
        if size % every == 0:
            assert with_cut.damaged() == {}, size
            fill(with_cut, 9, 1)
            assert check_all(open_folder(cut)) == expected | {key_of(9)}, size
            assert with_cut.damaged() == {}, size
        with_cut.close()


WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from backup_contract import batch, new_log, insert, grow, key_of
from jamboree_gym.store.folder import state
from jamboree_gym.store.folder.store import FolderStore

state.SEGMENT_BYTES = 20_000
url, first = sys.argv[1], int(sys.argv[2])
store = FolderStore.from_url(url, "space")
for number in range(first, first + 10**6):
    key = key_of(number)
    insert(store, {key: new_log(batch(0, 2, size=200), run="a")})
    grow(store, key, 2, batch(2, 2, size=200), revision=2)
    if number % 3 == 0:
        store.delete([(key, 100.0)])
    print(number, flush=True)
"""


@pytest.mark.faults
@pytest.mark.parametrize("kills", quick_and_long([3, 100], quick=[3]))
def test_a_writer_that_is_killed_again_and_again_loses_nothing_acknowledged(
    folder: Path, open_folder: Open, kills: int
) -> None:
    chance, done = random.Random(1), -1
    for _ in range(kills):
        writer = start_warm(WRITER, folder.as_uri(), done + 2, HERE)  # the one at work may be there
        assert writer.stdout.readline(), writer.communicate()[1]
        time.sleep(chance.uniform(0, 0.03))
        writer.kill()
        lines = writer.communicate()[0].split()
        before, done = done, int(lines[-1]) if lines else done + 2
        with closing(open_folder()) as store:
            found = set(store.keys())
            for number in range(before + 2, done + 1):
                assert (key_of(number) in found) == (number % 3 != 0), number
            assert store.damaged() == {}
    store = open_folder()
    assert check_all(store) == set(store.keys())
    counts = store.counts([key_of(number) for number in range(done + 1)])
    assert {there.records for there in list(counts.values())[:-1]} <= {2, 4}
    deleted = [(key_of(number), BORN) for number in range(0, done, 3)]
    assert len(store.deleted(deleted)) >= len(deleted) - kills


def test_a_write_that_is_shorter_than_what_a_dead_writer_left_leaves_none_of_that(
    folder: Path, open_folder: Open
) -> None:
    fill(open_folder(), 0, 1)
    (segment,) = segments_of(folder)
    torn = sections.encode_section(sections.Kind.BLOB, ["torn"], bytes(10_000))[:5_000]
    segment.write_bytes(segment.read_bytes() + torn)

    store = open_folder()
    store.put_blobs({digest(b"x"): b"x"})

    assert store.damaged() == {}
    assert len(segment.read_bytes()) < 5_000
    assert open_folder().blob(digest(b"x")) == b"x"


def test_a_new_segment_of_which_only_a_part_was_made_is_made_anew(
    folder: Path, open_folder: Open
) -> None:
    keys = fill(open_folder(), 0, 2)
    (folder / NAMESPACE / "00000002.0000.segment").write_bytes(sections.SEGMENT_HEADER[:5])
    store = open_folder()
    assert check_all(store) == set(keys)
    keys += fill(store, 5, 1)
    assert check_all(open_folder()) == set(keys)
    assert store.damaged() == {}


def test_what_a_power_cut_has_damaged_can_be_copied_again(folder: Path, open_folder: Open) -> None:
    """Nothing was acknowledged: lengths were written, and of the contents zeros."""
    log = new_log(batch(0, 2, size=500))
    insert(open_folder(), {key_of(1): log})
    (path,) = segments_of(folder)
    written = path.read_bytes()
    at = written.index(log.batches[0])
    path.write_bytes(
        written[:at] + bytes(len(log.batches[0])) + written[at + len(log.batches[0]) :]
    )
    store = open_folder()
    (damage,) = store.damaged().values()
    assert f"the batch of {key_of(1)} at index 0 is damaged" in str(damage)
    assert isinstance(store.logs([key_of(1)])[key_of(1)], DecodeError)
    assert insert(store, {key_of(1): log}) == ({}, set())
    for reader in (store, open_folder()):
        assert content(reader, key_of(1)) == (log.head.encode(), list(log.batches))
        assert reader.damaged() == {}


# -- damaged bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("every", quick_and_long([11, 1], quick=[11]))
def test_each_flipped_byte_is_found_and_named_and_no_wrong_byte_is_read(
    folder: Path, open_folder: Open, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    monkeypatch.setattr(state, "SEGMENT_BYTES", 300)
    store = open_folder()
    keys = fill(store, 0, 2)
    store.put_blobs({digest(b"a blob"): b"a blob"})
    store.put_setting("policy", b"a setting")
    keys += fill(store, 2, 1)
    expected = {key: content(store, key) for key in keys}
    assert len(segments_of(folder)) > 1
    for path in segments_of(folder):
        whole = path.read_bytes()
        for at in range(0, len(whole), every):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            damaged = open_folder()
            found = damaged.damaged()
            assert any(path.name in str(error) for error in found.values()), (path, at)
            for key, log in stored_logs(damaged, keys):
                if isinstance(log, tuple):
                    assert log[0].encode() == expected[key][0], at
                    blobs = list(readable(log[1]))
                    assert blobs == expected[key][1][: len(blobs)], at
            damaged.close()
        path.write_bytes(whole)
    assert open_folder().damaged() == {}


@pytest.mark.parametrize(
    ("kind", "about"),
    [(1, ["key"]), (2, [1, 2.0, 3, 4, 5.0, 6.0]), (3, []), (5, {}), (6, None), (7, [1])],
)
def test_a_section_with_another_description_is_damage(
    folder: Path, open_folder: Open, kind: int, about: object
) -> None:
    (key,) = fill(open_folder(), 0, 1)
    (path,) = segments_of(folder)
    path.write_bytes(path.read_bytes() + sections.encode_section(kind, about))
    store = open_folder()
    assert check_all(store) == {key}
    (damage,) = store.damaged().values()
    assert "it is damaged" in str(damage)
    fill(store, 1, 1)
    assert len(check_all(open_folder())) == 2


def test_a_section_of_an_unknown_kind_is_passed_over(folder: Path, open_folder: Open) -> None:
    fill(open_folder(), 0, 1)
    (path,) = segments_of(folder)
    path.write_bytes(path.read_bytes() + sections.encode_section(99, ["?"], b"of a later release"))
    store = open_folder()
    fill(store, 1, 1)
    assert (len(check_all(open_folder())), store.damaged()) == (2, {})


def readable(blobs: Iterator[bytes]) -> Iterator[bytes]:
    """Those before the first damaged one."""
    try:
        yield from blobs
    except DecodeError:
        return


def test_a_writer_leaves_a_damaged_end_as_it_is(
    folder: Path, open_folder: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Its bytes might have been acknowledged, so they are not cut off."""
    keys = fill(open_folder(), 0, 2)
    (path,) = segments_of(folder)
    whole = path.read_bytes()
    at = whole.rindex(b"JFRM") + 9  # the length of the last section's description
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    before = path.read_bytes()
    store = open_folder()
    fill(store, 7, 1)
    assert path.read_bytes() == before
    assert check_all(open_folder()) == {keys[0], key_of(7)}
    assert "is damaged" in caplog.text
    assert any(FIRST in place for place in open_folder().damaged())


# -- many segments --------------------------------------------------------------------------------


def test_a_folder_of_many_segments_is_read_by_their_indexes(
    folder: Path, open_folder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SEGMENT_BYTES", 2000)
    keys = fill(open_folder(), 0, 60)
    assert len(segments_of(folder)) > 5
    scanned = list[object]()
    scan = segments.scan
    monkeypatch.setattr(segments, "scan", lambda *how: scanned.append(how) or scan(*how))
    store = open_folder()
    assert list(store.keys()) == sorted(keys)
    assert len(scanned) == 1  # the newest
    assert check_all(store) == set(keys)


def test_compaction_frees_what_was_deleted_and_keeps_the_rest(
    folder: Path, open_folder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "SEGMENT_BYTES", 20_000)
    store, reader = open_folder(), open_folder()
    keys = fill(store, 0, 40, size=1000)
    before = sum(path.stat().st_size for path in segments_of(folder))
    gone = keys[:10] + keys[12:30]
    assert set(reader.keys()) == set(keys)
    for key in gone:
        store.delete([(key, BORN)])
    fill(store, 90, 2)
    assert sum(path.stat().st_size for path in segments_of(folder)) < before / 2
    kept = {*keys, key_of(90), key_of(91)} - {*gone}
    for one in (store, reader, open_folder()):
        assert set(one.keys()) == check_all(one) == kept
        assert one.deleted((key, BORN) for key in keys) == {(key, BORN) for key in gone}
        assert one.damaged() == {}
    assert not list((folder / NAMESPACE).glob("*.part"))


def test_a_compaction_that_is_killed_at_any_step_loses_nothing(
    folder: Path, open_folder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    monkeypatch.setattr(state, "SEGMENT_BYTES", 3000)
    steps = [(os, "replace"), (segments.SegmentFiles, "remove_leftovers"), (Path, "unlink")]
    for number, (owner, name) in enumerate(steps):
        first = number * 100
        store = open_folder()
        keys = fill(store, first, 12, size=300)

        def kill(*_: object, **__: object) -> None:
            raise Killed

        victims = [(key, BORN) for key in keys[:6]]
        store._state._is_checked = True
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, kill)
            with pytest.raises(Killed):
                store.delete(victims)
        again = open_folder()
        assert set(keys[6:]) <= check_all(again)
        assert again.deleted(victims) == set(victims)
        fill(again, first + 50, 1)
        assert again.damaged() == {}
        assert not list((folder / NAMESPACE).glob("*.part"))
        assert len({path.name[:8] for path in segments_of(folder)}) == len(segments_of(folder))


# -- several processes ----------------------------------------------------------------------------


def test_a_reader_sees_what_another_one_has_written_since(open_folder: Open) -> None:
    writer, reader = open_folder(), open_folder()
    for number in range(3):
        (key,) = fill(writer, number, 1)
        assert content(reader, key) is not None
    writer.delete([(key_of(1), BORN)])
    assert read(reader, [key_of(1)]) == {key_of(1): None}
    fill(reader, 5, 1)
    assert len(list(writer.keys())) == 3


def test_two_processes_write_in_turns(folder: Path, open_folder: Open) -> None:
    writers = [start_warm(WRITER, folder.as_uri(), first, HERE) for first in (0, 10**6)]
    done = []
    for _ in range(5):
        for writer in writers:
            done.append(writer.stdout.readline())
            assert done[-1], writer.communicate()[1]
    for writer in writers:
        writer.kill()
        writer.communicate()
    store = open_folder()
    found = set(store.keys())
    for first, last in zip((0, 10**6), map(int, done[-2:]), strict=True):
        numbers = range(first, last + 1)
        assert {key_of(n) for n in numbers if n % 3} <= found
    assert check_all(store) == found
    assert store.damaged() == {}


def test_a_second_writer_that_waits_too_long_hears_of_the_first(
    folder: Path, open_folder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_folder()
    fill(store, 0, 1)
    monkeypatch.setattr(segments, "LOCK_TIMEOUT_S", 0.05)
    with FileLock(folder / NAMESPACE / "writer.lock"):
        with pytest.raises(BackupUnavailable, match=rf"by process {os.getpid()} on .*: wait"):
            fill(store, 1, 1)
        assert list(store.keys()) == [key_of(0)]  # reading needs no lock
    fill(store, 1, 1)


# -- when it cannot be used -----------------------------------------------------------------------


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """As on a full disk: no file may be longer. Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_nothing_is_left_of_the_write(
    folder: Path, open_folder: Open
) -> None:
    store = open_folder()
    keys = fill(store, 0, 3)
    (path,) = segments_of(folder)
    size = path.stat().st_size
    with limited_files(size + 300), pytest.raises(StoreFull, match=r"no disk space left .*free"):
        fill(store, 5, 1, size=2000)
    assert path.stat().st_size == size
    assert check_all(store) == set(keys)
    keys += fill(store, 5, 1, size=2000)
    assert check_all(store) == check_all(open_folder()) == set(keys)
    assert store.damaged() == {}


def test_a_full_disk_is_no_error_where_only_the_compaction_finds_no_space(
    folder: Path,
    open_folder: Open,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(state, "SEGMENT_BYTES", 20_000)
    store = open_folder()
    keys = list[str]()
    while len(segments_of(folder)) < 2:
        keys += fill(store, len(keys), 1, size=1000)
    gone = [(key, BORN) for key in keys[:6]]
    with limited_files(segments_of(folder)[-1].stat().st_size + 1000):
        store.delete(gone)
        store.delete([(keys[6], BORN)])
    assert caplog.text.count("what was deleted still takes space") == 1
    assert store.deleted(gone) == open_folder().deleted(gone) == set(gone)
    assert not list((folder / NAMESPACE).glob("*.part"))

    before = sum(path.stat().st_size for path in segments_of(folder))
    again = open_folder()
    fill(again, 99, 1)
    assert sum(path.stat().st_size for path in segments_of(folder)) < before
    assert check_all(again) == {*keys[7:], key_of(99)}


def test_a_folder_that_may_only_be_read_is_read(
    folder: Path, open_folder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = fill(open_folder(), 0, 2)
    store = open_folder()
    opened = os.open

    def refuse(path: object, flags: int, *rest: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):  # root, who runs tests in containers, may write all
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(BackupUnavailable, match="Read-only file system; allow this user"):
            fill(store, 5, 1)
        assert check_all(store) == set(keys)
    fill(store, 5, 1)


def test_a_folder_that_is_gone_is_not_begun_anew_and_goes_on_when_it_is_back(
    folder: Path, open_folder: Open, tmp_path: Path
) -> None:
    store = open_folder()
    keys = fill(store, 0, 2)
    folder.rename(tmp_path / "unmounted")
    for use in (lambda: list(store.keys()), lambda: fill(store, 5, 1)):
        with pytest.raises(BackupUnavailable, match=r"is not there: mount its disk, or make"):
            use()
    assert not folder.exists()
    (tmp_path / "unmounted").rename(folder)
    keys += fill(store, 5, 1)
    assert check_all(store) == set(keys)


def test_the_place_of_a_folder_has_to_exist(tmp_path: Path) -> None:
    url = (tmp_path / "no disk" / "backup").as_uri()
    with pytest.raises(BackupUnavailable, match="mount its disk, or make"):
        FolderStore.from_url(url, NAMESPACE)


@pytest.mark.parametrize("url", ["file://backup", "file://", "file:///", "file://server/share/x"])
def test_a_url_of_no_folder_is_refused(url: str) -> None:
    with pytest.raises(InvalidUrl, match="file:///srv/backup"):
        FolderStore.from_url(url, NAMESPACE)


def test_a_folder_of_a_newer_release_is_not_touched(folder: Path, open_folder: Open) -> None:
    fill(open_folder(), 0, 1)
    (path,) = segments_of(folder)
    newer = sections._with_crc(sections._SEGMENT.pack(b"JAMBOREE", 2))
    path.write_bytes(newer + path.read_bytes()[len(newer) :])
    before = path.read_bytes()
    with pytest.raises(BackupUnavailable, match=r"is of format version 2.*upgrade jamboree-gym"):
        open_folder()
    assert path.read_bytes() == before


def test_a_head_that_is_damaged_is_replaced_by_the_next(folder: Path, open_folder: Open) -> None:
    store = open_folder()
    (key,) = fill(store, 0, 1)
    (path,) = segments_of(folder)
    whole = path.read_bytes()
    at = whole.rindex(b"JH")
    path.write_bytes(whole[:at] + b"XX" + whole[at + 2 :])
    with pytest.raises(DecodeError, match="the head of the log is damaged"):
        raise open_folder().logs([key])[key]
    again = open_folder()
    grow(again, key, 2, batch(2, 2), revision=2)
    found = read(again, [key])[key]
    assert found is not None
    assert isinstance(found[0], Head)
    assert (found[0].count, len(found[1])) == (4, 2)
    assert head(4, revision=2).encode() == found[0].encode()
