"""Puts faults into a copy of the package, one line each, and counts the schedules until one fails.

    python tests/simulation/planted_faults.py
    python tests/simulation/planted_faults.py --only "a change during a copy" --story

The exit code is 1 if one of them is not found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FAULTS", "PlantedFault", "found_after", "plant"]

ROOT = Path(__file__).parents[2]
PACKAGE = "jamboree_gym"
SIMULATE = Path(__file__).parent / "simulate.py"


@dataclass(frozen=True)
class PlantedFault:
    """One line of the package, and what it is replaced by.

    Attributes:
        name: What is wrong then.
        path: The file, in the package.
        line: As it is; it stands there once.
        instead: As it is with the fault.
    """

    name: str
    path: str
    line: str
    instead: str


FAULTS = (
    PlantedFault(
        "a change during a copy is taken for copied",
        "store/redis/lua/acknowledge.lua",
        "if pending and tonumber(pending) <= revision then",
        "if pending then",
    ),
    PlantedFault(
        "an append is repeated after a deletion",
        "store/redis/lua/append.lua",
        "if is_repeated then return {-1, 0, '-inf'} end",
        "if is_repeated then return {0, 0, '-inf'} end",
    ),
    PlantedFault(
        "a batch that was evicted is not recognized",
        "store/redis/appender.py",
        "must_ask = is_evicted or _is_behind(append, count)",
        "must_ask = _is_behind(append, count)",
    ),
    PlantedFault(
        "an episode is continued behind a gap",
        "store/redis/appender.py",
        "must_ask = is_evicted or _is_behind(append, count)",
        "must_ask = is_evicted",
    ),
    PlantedFault(
        "a deletion is not noted for MongoDB",
        "store/redis/lua/delete.lua",
        "redis.call('HSET', KEYS[4], identity(KEYS[1], struct.unpack('<d', born)), born)",
        "local _ = identity(KEYS[1], struct.unpack('<d', born))",
    ),
    PlantedFault(
        "a deletion is forgotten before MongoDB has done it",
        "store/lost_deletions.py",
        "    backup.delete([*_others(store, backup, covering), *logs])\n",
        "    backup.clear_deleted(logs)\n",
    ),
    PlantedFault(
        "a slow reader restores what was deleted meanwhile",
        "store/redis/lua/restore.lua",
        "if not same_standing(KEYS[6], KEYS[4], ARGV[1]) then return 0 end",
        "if ARGV[1] == '' then return 0 end",
    ),
    PlantedFault(
        "a reader restores what is noted as deleted",
        "store/read_through.py",
        "elif key not in deleted:",
        "elif stored is not None:",
    ),
    PlantedFault(
        "records of a dead process are delivered again",
        "recording/recovery.py",
        "waiting = [record for record in records if not record.is_confirmed]",
        "waiting = list(records)",
    ),
    PlantedFault(
        "records that arrived unheard are delivered again",
        "recording/recovery.py",
        "        waiting = self._unsent(key, waiting)\n",
        "",
    ),
    PlantedFault(
        "a dead process's abandoned episode is taken for interrupted",
        "recording/recovery.py",
        'if status == "running" and episode.is_abandoned:',
        'if status != "running" and episode.is_abandoned:',
    ),
    PlantedFault(
        "what a failed delivery took is not tried again",
        "delivery/writer.py",
        "self._dirty, self._in_flight = {**self._in_flight, **self._dirty}, {}",
        "self._dirty, self._in_flight = {**self._dirty}, {}",
    ),
    PlantedFault(
        "the lease is not renewed after FLUSHALL",
        "delivery/lease.py",
        "if max(ages_s) > LATEST_RENEWAL_S or self._losses != self._store.losses:",
        "if max(ages_s) > LATEST_RENEWAL_S:",
    ),
    PlantedFault(
        "blobs are not sent again after FLUSHALL",
        "store/redis/appender.py",
        "blobs: set[str] = field(default_factory=set)",
        "blobs: set[str] = field(default_factory=lambda known=set(): known)",
    ),
    PlantedFault(
        "Redis gives up what MongoDB lacks",
        "store/redis/lua/trim.lua",
        "local later = trim_front(key, head, math.min(head.acked, head.newest, kept))",
        "local later = trim_front(key, head, head.newest)",
    ),
    PlantedFault(
        "rows of a dead process are delivered from the wrong one on",
        "recording/recovery.py",
        "            yield from part[start - part.start :].cut(size)",
        "            yield from part.cut(size)",
    ),
    PlantedFault(
        "the other process's records are not put behind one's own",
        "journal/dead.py",
        "        self.records.sort(key=lambda record: record.time_s)\n",
        "        self.records.sort(key=lambda record: -record.time_s)\n",
    ),
    PlantedFault(
        "a dead backup's lease never ends",
        "store/redis/lua/take_lead.lua",
        "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])",
        "redis.call('SET', KEYS[1], ARGV[1])",
    ),
    PlantedFault(
        "a slow copy brings back what was deleted",
        "store/mongo/writer.py",
        "            self.link.insert_new(self.link.deleted, tombstones)\n",
        "",
    ),
    PlantedFault(
        "what the backup holds of a lost answer is sent again",
        "delivery/writer.py",
        "outbox.was_asked_for(asked.epoch, asked.stored.get(key, 0))",
        "outbox.was_asked_for(asked.epoch)",
    ),
    PlantedFault(
        "records that were refused are confirmed in the journal",
        "delivery/outbox.py",
        "        done = self._batches[: self._sent if result.is_deleted else result.stored]",
        "        done = self._batches[: self._sent]",
    ),
    PlantedFault(
        "what another writer may send again is evicted at once",
        "store/redis/lua/trim.lua",
        "local is_fresh = t_last >= now - quiet_s and batch_writer(raw) ~= newest_by",
        "local is_fresh = t_last >= now - quiet_s and batch_writer(raw) == newest_by",
    ),
    PlantedFault(
        "that a log is missing is remembered after others have begun it",
        "store/read_through.py",
        "return self.redis.restorer.stands(key, known.standing, standing)",
        "return known.standing == known.standing",
    ),
    PlantedFault(
        "a dead process's episode is looked for in Redis alone",
        "recording/recovery.py",
        "            head = store.head(episode.key)",
        "            head = store.redis.head(episode.key)",
    ),
    PlantedFault(
        "a dead process's records are not taken for repeated",
        "recording/recovery.py",
        "replace(append, is_repeated=True)",
        "replace(append, is_repeated=False)",
    ),
    PlantedFault(
        "rows of an earlier epoch are acknowledged",
        "store/redis/lua/acknowledge.lua",
        "if not is_same_epoch then",
        "if not is_same_epoch and not head then",
    ),
    PlantedFault(
        "the epoch in which the backup was asked is not compared",
        "store/redis/appender.py",
        "must_ask = part_of(append.asked_in, where.bucket) != where.epoch",
        "must_ask = part_of(append.asked_in, where.bucket) == ''",
    ),
    PlantedFault(
        "a log that was begun again keeps the birth of the deleted one",
        "store/redis/lua/append.lua",
        "while was_deleted(key, born) do",
        "while is_repeated and was_deleted(key, born) do",
    ),
    PlantedFault(
        "what Redis lost during a copy is not given back to it",
        "store/redis/lua/acknowledge.lua",
        "elseif head.count < count or head.revision < revision\n",
        "elseif head.count < count and head.revision < revision\n",
    ),
    PlantedFault(
        "a log that shrank is replaced although somebody has added to it",
        "store/redis/lua/restore.lua",
        "  if not is_among and redis.call('ZSCORE', KEYS[5], KEYS[1]) then return 0 end",
        "  if is_among and redis.call('ZSCORE', KEYS[5], KEYS[1]) then return 0 end",
    ),
    PlantedFault(
        "of several batches only the first is confirmed in the journal",
        "delivery/outbox.py",
        "        for batch in reversed(done):\n",
        "        for batch in done[:1]:\n",
    ),
    PlantedFault(
        "a record of another writer is taken for that of a dead process",
        "recording/recovery.py",
        "return [batch for batch in batches if batch.writer == self._writer]",
        "return batches",
    ),
    PlantedFault(
        "of several logs of a dead process only the first is delivered",
        "recording/recovery.py",
        "        for key, records in by_key.items():\n",
        "        for key, records in [*by_key.items()][:1]:\n",
    ),
    PlantedFault(
        "records that were moved behind others have too old a revision",
        "backup/rejoin.py",
        "revision=max(head.revision, there.revision) + 1,",
        "revision=head.revision + 1,",
    ),
    PlantedFault(
        "an end that comes during a copy is taken for copied",
        "store/redis/lua/acknowledge.lua",
        "if pending and tonumber(pending) <= revision then",
        "if pending and (tonumber(pending) <= revision or head.count == count) then",
    ),
    PlantedFault(
        "a listing that is recovered takes the place of newer summaries",
        "store/redis/lua/list_episodes.lua",
        "redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])",
        "redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])",
    ),
)


def plant(fault: PlantedFault, directory: Path) -> None:
    """Copy the package there, with the fault in it."""
    shutil.copytree(ROOT / PACKAGE, directory / PACKAGE, ignore=shutil.ignore_patterns("*.pyc"))
    path = directory / PACKAGE / fault.path
    source = path.read_text()
    if source.count(fault.line) != 1:
        raise ValueError(f"{fault.path} does not have this line once: {fault.line!r}")
    path.write_text(source.replace(fault.line, fault.instead))


def found_after(fault: PlantedFault, first: int, seconds: float, *, story: bool) -> int | None:
    """The number of schedules until one fails that does not without the fault.

    None if none does in this time.
    """
    with tempfile.TemporaryDirectory(prefix="jg-planted-") as directory:
        plant(fault, Path(directory))
        many = ["--first", str(first), "--seconds", str(seconds)]
        output = _simulated(Path(directory), *many, *(() if story else ("--whole",)))
    if story:
        print(output)
    found = re.search(r"seed (\d+) breaks a promise", output)
    if found is None:
        return None
    if "breaks a promise" in _simulated(ROOT, "--whole", "--seed", found[1]):
        raise RuntimeError(f"seed {found[1]} fails without the fault, too: begin behind it")
    return int(found[1]) - first + 1


def _simulated(package_in: Path, *arguments: str) -> str:
    """What the simulation of a package prints."""
    done = subprocess.run(
        [sys.executable, str(SIMULATE), *arguments],
        env=os.environ | {"PYTHONPATH": str(package_in)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1:
        raise RuntimeError(done.stderr)
    return done.stdout


def main() -> int:
    """Parse, plant, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seconds", type=float, default=120.0, help="at most so long for each")
    parser.add_argument("--only", default="", help="those with this in their names")
    parser.add_argument("--part", default="1/1", help="2/3: of three parts, the second")
    parser.add_argument("--story", action="store_true", help="of the schedule that finds it")
    options = parser.parse_args()
    missed = 0
    part, parts = map(int, options.part.split("/"))
    for fault in FAULTS[part - 1 :: parts]:
        if options.only not in fault.name:
            continue
        began = time.monotonic()
        count = found_after(fault, options.first, options.seconds, story=options.story)
        missed += count is None
        found = "not found" if count is None else f"found by schedule {count}"
        print(f"{found} ({time.monotonic() - began:.0f} s): {fault.name}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
