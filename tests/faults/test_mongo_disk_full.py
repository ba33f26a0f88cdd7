"""The disk under MongoDB is full, and has room again later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Server
from full_disk import fill, free, mongo_of_its_own
from processes import NoteHandler
from stored import at, batches_of_all

from jamboree_gym import Jamboree
from jamboree_gym.errors import StoreFull, StoreUnavailable

pytestmark = [pytest.mark.faults, pytest.mark.once]

NOTES_AT_ONCE = 100
NOTE_BYTES = 10_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with mongo_of_its_own(tmp_path / "mongo") as started:
        yield started


def test_a_backup_onto_a_full_disk_says_so_and_goes_on_when_there_is_room(
    server: Server, tmp_path: Path, open_jamboree: Callable[..., Jamboree]
) -> None:
    """This server's storage engine has to be started again; not every one has."""
    jam = open_jamboree(mongo_url=server.url)
    notes = NoteHandler(jam, "n")
    saved = 0

    def save() -> None:
        nonlocal saved
        notes.save_many(
            {"n": saved + number, "blob": bytes([number % 256]) * NOTE_BYTES}
            for number in range(NOTES_AT_ONCE)
        )
        saved += NOTES_AT_ONCE

    save()
    jam.backup.flush()
    fill(server, tmp_path / "mongo", room=0)
    with pytest.raises((StoreFull, StoreUnavailable), match="free some"):  # noqa: PT012
        while True:
            save()
            jam.backup.flush()
    assert jam.backup.status().pending_records > 0
    assert [note["n"] for note in notes.many(10**6)] == list(range(saved))  # Redis goes on
    save()
    free(server)
    with suppress(StoreUnavailable):
        jam.backup.flush()
    server.kill()
    server.start()
    jam.backup.flush()

    assert jam.backup.status().pending_records == 0
    report = jam.backup.verify()
    assert report, report.different
    before = batches_of_all(jam)
    for key in jam.redis.scan_iter(f"*{jam._connection.keyspace.namespace}:*"):
        jam.redis.delete(at(jam, key))
    jam.backup.restore()
    assert batches_of_all(jam) == before
    assert [note["n"] for note in notes.many(10**6)] == list(range(saved))
