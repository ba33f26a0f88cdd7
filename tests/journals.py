"""Journals as a killed process leaves them, without a process to kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from jamboree_gym import Jamboree
from jamboree_gym.store.redis.store import RedisStore


def journal_of(home: Path) -> Path:
    """Where a home has its journals."""
    return home / "journal"


def copy_journal(jam: Jamboree, source: Path, target: Path, url: str) -> None:
    """Copy what a Jamboree would leave, were it killed now, as if it wrote to another Redis."""
    owner = jam._connection.journal.owner
    directory = journal_of(target)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in journal_of(source).glob(f"{owner.writer}.*"):
        shutil.copy(path, directory)
    lock = directory / f"{owner.writer}.lock"
    store = RedisStore.from_url(url, jam._connection.keyspace)
    place = {"where": store.where, "database": store.link.database}
    store.close()
    lock.write_text(json.dumps(json.loads(lock.read_text()) | place))
    lock.chmod(0o600)


def undead(path: Path) -> Path:
    """The name that a file of a journal had before somebody tried to deliver it."""
    return path.with_suffix(".lock") if path.suffix == ".dead" else path
