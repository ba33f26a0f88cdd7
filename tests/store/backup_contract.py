"""What every backup has to do. A kind runs it with a class of one fixture.

See `test_backup_contract.py`: it inherits from `BackupContract` and has a fixture `backups`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import pytest

from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    Head,
    batch_span,
    decode_batch,
    encode_batch,
    encode_records,
)
from jamboree_gym.keys import digest
from jamboree_gym.store.backups.errors import BackupUnavailable
from jamboree_gym.store.backups.presence import check_is_there, is_there
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.backups.reader import StoredBatches, checked_chain, stored_logs
from jamboree_gym.store.backups.records import (
    Copied,
    GrownLog,
    Inserted,
    NewLog,
    StoredBatch,
    StoredLog,
)
from jamboree_gym.store.log import identity

OpenBackup = Callable[[], BackupStore]

BORN = 100.0
KEY = "space:episode:{one}"
LARGE = 40 << 10  # three of these do not come with their log


def key_of(number: int) -> str:
    """Keys of episodes whose ids say when they were made; MongoDB bundles those."""
    return f"space:episode:{{{number:010x}{'0' * 22}}}"


def batch(start: int, count: int, *, born: float = BORN, size: int = 20, fill: int = 1) -> bytes:
    times = [born + start + at for at in range(count)]
    body = encode_records(times, [bytes([fill]) * size] * count)
    spans = {"start": start, "count": count, "t_first": times[0], "t_last": times[-1]}
    return encode_batch(codec=CODEC_RECORDS, writer=b"writer-a", body=body, **spans)


def head(count: int, *, revision: int = 1, born: float = BORN, note: bytes = b"") -> Head:
    return Head(
        codec=CODEC_RECORDS,
        first=0,
        held=0,
        newest=0,
        count=count,
        acked=count,
        revision=revision,
        t_last=born + count - 1,
        born=born,
        note=note,
    )


def new_log(
    *batches: bytes, revision: int = 1, run: str | None = None, has_ended: bool = False
) -> NewLog:
    decoded = [decode_batch(one, where="test") for one in batches]
    born = decoded[0].t_first - decoded[0].start
    return NewLog(head(decoded[-1].stop, revision=revision, born=born), batches, run, has_ended)


def insert(store: BackupStore, logs: Mapping[str, NewLog]) -> Inserted:
    inserter = store.inserter(logs)
    inserted = inserter.insert(logs)
    inserter.close()
    return inserted


def grow(store: BackupStore, key: str, since: int, *batches: bytes, revision: int) -> None:
    """As the copier does: first the batches, then the head."""
    stop = decode_batch(batches[-1], where="test").stop
    fence = store.counts([key])[key].fence
    assert store.insert_batches((key, BORN, one) for one in batches) == {}
    grown = GrownLog(head(stop, revision=revision), since, fence=fence)
    assert store.put_heads({key: grown}) == {}


def read(store: BackupStore, keys: Iterable[str]) -> dict[str, tuple[Head, list[bytes]] | None]:
    """Each log with its batches, as restore reads them."""
    found: dict[str, tuple[Head, list[bytes]] | None] = {}
    for key, log in stored_logs(store, sorted(keys)):
        assert log is None or isinstance(log, tuple), log
        found[key] = None if log is None else (log[0], list(log[1]))
    return found


def starts(store: BackupStore, start: int) -> list[int]:
    """Where the batches of a log begin, from an index on."""
    return [one.start for one in store.batches_from(KEY, BORN, start, 99)]


def content(store: BackupStore, key: str) -> tuple[bytes, list[bytes]] | None:
    found = read(store, [key])[key]
    return None if found is None else (found[0].encode(), found[1])


class BackupContract:
    @pytest.fixture
    def store(self, open_backup: OpenBackup) -> BackupStore:
        return open_backup()

    def test_an_empty_backup_holds_nothing(self, store: BackupStore) -> None:
        assert (list(store.keys()), store.runs(), store.blobs(), store.records()) == ([], [], {}, 0)
        assert read(store, [KEY]) == {KEY: None}
        assert (store.birth(KEY), store.counts([KEY]), store.blob("none")) == (None, {}, None)
        assert (store.setting("none"), store.deleted([(KEY, BORN)])) == (None, set())
        assert list(store.deletions()) == []
        assert list(store.heads()) in ([], [{}])
        assert store.damaged() == {}

    def test_what_was_inserted_is_read_by_all(
        self, store: BackupStore, open_backup: OpenBackup
    ) -> None:
        log = new_log(batch(0, 3), batch(3, 4), run="a")
        assert insert(store, {KEY: log}) == ({}, set())
        for reader in (store, open_backup()):
            assert content(reader, KEY) == (log.head.encode(), list(log.batches))
            assert list(reader.keys()) == [KEY]
            assert (reader.birth(KEY), reader.counts([KEY, "b"])) == (BORN, {KEY: Copied(BORN, 7)})
            assert (reader.runs(), reader.records()) == (["a"], 7)

    @pytest.mark.parametrize("count", [3, 120])
    def test_many_short_logs_are_read_and_listed(self, store: BackupStore, count: int) -> None:
        keys = [key_of(number) for number in range(count)]
        logs = {
            key: new_log(batch(0, 2, born=float(at)), run=f"run-{at % 2}", has_ended=True)
            for at, key in enumerate(keys)
        }
        assert insert(store, logs) == ({}, set())
        assert insert(store, logs) == ({}, set())  # repeated
        assert list(store.keys()) == sorted(keys)
        found = read(store, keys)
        assert {key: one and one[1] for key, one in found.items()} == {
            key: [*log.batches] for key, log in logs.items()
        }
        listed = {key: one for some in store.heads() for key, one in some.items()}
        assert listed.keys() == set(keys)
        of_run = {key for some in store.heads("run-1") for key in some}
        assert of_run == set(keys[1::2])
        assert (sorted(store.runs()), store.records()) == (["run-0", "run-1"], 2 * count)

    def test_a_log_grows(self, store: BackupStore, open_backup: OpenBackup) -> None:
        first, *more = (batch(at * 5, 5) for at in range(4))
        insert(store, {KEY: new_log(first)})
        grow(store, KEY, 5, *more[:2], revision=2)
        grow(store, KEY, 15, more[2], revision=3)
        for reader in (store, open_backup()):
            found = read(reader, [KEY])[KEY]
            assert found is not None
            assert (found[0].count, found[0].revision, found[1]) == (20, 3, [first, *more])

    def test_a_part_of_a_long_log_is_read(self, store: BackupStore) -> None:
        batches = [batch(at * 2, 2, size=LARGE) for at in range(6)]
        assert insert(store, {KEY: new_log(batches[0])}) == ({}, set())
        grow(store, KEY, 2, *batches[1:], revision=2)
        log = store.logs([KEY])[KEY]
        assert isinstance(log, StoredLog)
        stored = StoredBatches(store, KEY, log, 12)
        assert [one.blob for one in stored.covering(5, 9)] == batches[2:5]
        assert store.batch_at(KEY, BORN, 7) == (6, 8, BORN + 6, BORN + 7)
        assert [one.blob for one in store.batches_from(KEY, BORN, 6, 10)] == batches[3:5]

    def test_logs_between_others_are_not_mixed_up(self, store: BackupStore) -> None:
        keys = sorted(f"space:records:{{note:book={name}}}" for name in ("a", "a1", "b", "c"))
        for key in keys:
            insert(store, {key: new_log(batch(0, 2, size=LARGE))})
            grow(store, key, 2, batch(2, 2, size=LARGE), revision=2)
        found = read(store, [keys[1], keys[2]])
        assert found.keys() == {keys[1], keys[2]}
        assert all(one is not None and len(one[1]) == 2 for one in found.values())
        between = {log for log, _ in store.batches_between(keys[1], keys[2])}
        assert between <= {identity(keys[1], BORN), identity(keys[2], BORN)}

    def test_a_repeated_write_changes_nothing(self, store: BackupStore) -> None:
        first, second = batch(0, 5), batch(5, 5)
        for _ in range(2):
            assert insert(store, {KEY: new_log(first)}) == ({}, set())
        for _ in range(2):
            assert store.insert_batches([(KEY, BORN, second)]) == {}
        grown = {KEY: GrownLog(head(10, revision=2), 5)}
        assert store.put_heads(grown) == {}
        found = content(store, KEY)
        assert store.put_heads({KEY: replace(grown[KEY], since=10)}) == {}
        assert insert(store, {KEY: new_log(first)}).of_other_length == {KEY}
        assert content(store, KEY) == found
        assert found is not None
        assert found[1] == [first, second]

    def test_a_newer_head_replaces_an_older_one_and_never_the_other_way(
        self, store: BackupStore
    ) -> None:
        log = new_log(batch(0, 5))
        insert(store, {KEY: log})
        newer = replace(log, head=head(5, revision=7, note=b"newer"))
        for one, to_compare in ((newer, set()), (newer, set()), (log, {KEY})):
            assert insert(store, {KEY: one}) == ({}, to_compare)
            found = store.logs([KEY])[KEY]
            assert isinstance(found, StoredLog)
            assert (found.head.revision, found.head.note) == (7, b"newer")
        assert store.put_heads({KEY: GrownLog(head(5, revision=3), 5)}) == {KEY: None}
        assert store.put_heads({KEY: GrownLog(newer.head, 5)}) == {}
        assert store.put_heads({KEY: GrownLog(head(5, revision=8), 5)}) == {}
        (listed,) = (one[KEY] for one in store.heads() if one)
        assert isinstance(listed, Head)
        assert listed.revision == 8

    def test_other_bytes_are_refused_and_nothing_is_overwritten(self, store: BackupStore) -> None:
        log = new_log(batch(0, 5))
        insert(store, {KEY: log})
        grow(store, KEY, 5, batch(5, 5), revision=2)
        other = new_log(batch(0, 5, fill=2), batch(5, 5))
        assert insert(store, {KEY: other}).refused == {KEY: "other bytes at index 0"}
        refused = store.insert_batches([(KEY, BORN, batch(5, 5, fill=2))])
        assert refused == {KEY: "other bytes at index 5"}
        found = content(store, KEY)
        assert found is not None
        assert found[1] == [batch(0, 5), batch(5, 5)]

    def test_other_bytes_in_a_batch_that_was_added_later_are_noticed(
        self, store: BackupStore
    ) -> None:
        insert(store, {KEY: new_log(batch(0, 5))})
        grow(store, KEY, 5, batch(5, 5), revision=2)
        other = new_log(batch(0, 5), batch(5, 5, fill=2), revision=2)
        inserted = insert(store, {KEY: other})
        assert {*inserted.refused, *inserted.of_other_length} == {KEY}

    def test_another_log_of_the_same_key_is_refused(self, store: BackupStore) -> None:
        insert(store, {KEY: new_log(batch(0, 5))})
        other = new_log(batch(0, 5, born=BORN + 1))
        assert insert(store, {KEY: other}).refused.keys() == {KEY}
        grown = GrownLog(head(9, revision=5, born=BORN + 1), 5)
        assert store.put_heads({KEY: grown}) == {KEY: "another log of the same name"}
        assert store.birth(KEY) == BORN

    def test_a_log_with_more_records_than_expected_has_to_be_compared(
        self, store: BackupStore
    ) -> None:
        insert(store, {KEY: new_log(batch(0, 5))})
        grow(store, KEY, 5, batch(5, 5), revision=2)
        assert store.put_heads({KEY: GrownLog(head(10, revision=3), 5)}) == {KEY: None}
        assert insert(store, {KEY: new_log(batch(0, 5))}) == ({}, {KEY})

    def test_a_deleted_log_is_gone_and_late_copies_of_it_stay_hidden(
        self, store: BackupStore, open_backup: OpenBackup
    ) -> None:
        log, further = new_log(batch(0, 5), run="a"), batch(5, 5)
        insert(store, {KEY: log})
        grow(store, KEY, 5, further, revision=2)
        store.delete([(KEY, BORN), ("space:never", 1.0)])
        store.delete([(KEY, BORN)])
        insert(store, {KEY: log})
        store.insert_batches([(KEY, BORN, further)])
        store.put_heads({KEY: GrownLog(head(10, revision=3), 5)})
        store.clear_deleted([(KEY, BORN)])
        for reader in (store, open_backup()):
            assert read(reader, [KEY]) == {KEY: None}
            assert [*reader.keys(), *reader.runs()] == []
            assert {key for some in reader.heads() for key in some} == set()
            wanted = [(KEY, BORN), (KEY, BORN + 1), ("space:never", 1.0)]
            assert reader.deleted(wanted) == {wanted[0], wanted[2]}
            assert {*reader.deletions()} == {wanted[0], wanted[2]}

    def test_a_log_begins_anew_after_its_deletion(self, store: BackupStore) -> None:
        insert(store, {KEY: new_log(batch(0, 5))})
        store.delete([(KEY, BORN)])
        again = new_log(batch(0, 2, born=BORN + 9))
        assert insert(store, {KEY: again}) == ({}, set())
        assert content(store, KEY) == (again.head.encode(), list(again.batches))
        assert store.deleted([(KEY, BORN), (KEY, BORN + 9)]) == {(KEY, BORN)}

    def test_batches_without_a_head_are_cleared(self, store: BackupStore) -> None:
        insert(store, {KEY: new_log(batch(0, 5))})
        late = [batch(5, 5, fill=9), batch(10, 5, fill=9)]
        assert store.insert_batches((KEY, BORN, one) for one in late) == {}
        assert store.counts([KEY]) == {KEY: Copied(BORN, 5)}
        assert store.insert_batches([(KEY, BORN, batch(5, 5))]).keys() == {KEY}
        store.clear_batches(KEY, BORN, [StoredBatch(5, batch(5, 5))], count=5)  # not that one
        assert starts(store, 5) == [5, 10]
        store.clear_batches(KEY, BORN, [StoredBatch(5, late[0])], count=5)
        assert starts(store, 5) == [10]
        grow(store, KEY, 5, batch(5, 5), revision=2)
        left = [StoredBatch(batch_span(one)[0], one) for one in late]
        store.clear_batches(KEY, BORN, left, count=10)
        assert starts(store, 10) == []
        found = content(store, KEY)
        assert found is not None
        assert found[1] == [batch(0, 5), batch(5, 5)]

    def test_a_head_is_refused_whose_batches_may_have_been_removed(
        self, store: BackupStore, open_backup: OpenBackup
    ) -> None:
        insert(store, {KEY: new_log(batch(0, 5))})
        before = store.counts([KEY])[KEY]
        assert store.insert_batches([(KEY, BORN, batch(5, 5))]) == {}
        left = [StoredBatch(5, batch(5, 5))]
        store.clear_batches(KEY, BORN, left, count=3)  # the head has changed since
        assert starts(store, 5) == [5]
        store.clear_batches(KEY, BORN, left, count=5)
        assert starts(store, 5) == []
        grown = GrownLog(head(10, revision=2), 5, fence=before.fence)
        assert store.put_heads({KEY: grown}) == {KEY: None}
        assert store.put_heads({KEY: replace(grown, since=10)}) == {KEY: None}
        assert store.insert_batches([(KEY, BORN, batch(5, 5))]) == {}
        grown = replace(grown, fence=open_backup().counts([KEY])[KEY].fence)
        assert store.put_heads({KEY: grown}) == {}
        store.clear_batches(KEY, BORN, left, count=5)  # it is counted now
        found = content(store, KEY)
        assert found is not None
        assert found[1] == [batch(0, 5), batch(5, 5)]

    def test_batches_with_other_bytes_change_none(self, store: BackupStore) -> None:
        insert(store, {KEY: new_log(batch(0, 2))})
        grow(store, KEY, 2, batch(2, 2), revision=2)
        late = [batch(2, 1, fill=9), batch(4, 2)]
        refused = store.insert_batches((KEY, BORN, one) for one in late)
        assert refused == {KEY: "other bytes at index 2"}
        assert store.batch_at(KEY, BORN, 3) == (2, 4, BORN + 2, BORN + 3)
        assert starts(store, 2) in ([2], [2, 4])

    def test_a_batch_of_many_megabytes_comes_back(self, store: BackupStore) -> None:
        log = new_log(batch(0, 1, size=13 << 20))  # MongoDB takes no more than 16 in one document
        assert store.insert_batches([(KEY, BORN, log.batches[0])]) == {}
        assert store.put_heads({KEY: GrownLog(log.head, 0)}) == {}
        found = read(store, [KEY])[KEY]
        assert found is not None
        assert [one.blob for one in checked_chain(found[1], found[0], where=KEY)] == [*log.batches]

    def test_blobs_and_settings_come_back(
        self, store: BackupStore, open_backup: OpenBackup
    ) -> None:
        blobs = {digest(one): one for one in (b"", b"one", b"two" * 100_000)}
        store.put_blobs(blobs)
        store.put_blobs({})
        store.put_blobs(blobs)
        for value in (b"first", b"second"):
            store.put_setting("policy", value)
        for reader in (store, open_backup()):
            assert reader.blobs() == blobs
            assert [reader.blob(name) for name in blobs] == list(blobs.values())
            assert reader.setting("policy") == b"second"

    def test_its_identity_is_made_once(self, store: BackupStore, open_backup: OpenBackup) -> None:
        assert store.identity().id == ""
        made = store.identity_now()
        assert len(made.id) == 16
        for reader in (store, open_backup()):
            assert reader.identity() == reader.identity_now() == made
        assert made.where == store.where

    def test_two_namespaces_do_not_see_each_other(
        self, store: BackupStore, open_other: OpenBackup, namespace: str
    ) -> None:
        insert(store, {KEY: new_log(batch(0, 5))})
        other = open_other()
        assert list(other.keys()) == []
        assert not is_there(other)
        assert namespace in other.namespaces()
        with pytest.raises(BackupUnavailable, match=f" new'.*\n.*others: .*{namespace}"):
            check_is_there(other, f"{namespace} new")
        insert(other, {KEY: new_log(batch(0, 5, born=7.0))})
        check_is_there(other, "new")
        assert (store.birth(KEY), other.birth(KEY)) == (BORN, 7.0)

    def test_close_twice_is_quiet(self, store: BackupStore) -> None:
        store.close()
        store.close()
