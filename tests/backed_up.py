"""What tests of the backup share: something to back up, and whether MongoDB holds it."""

from __future__ import annotations

import time

from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv, play
from stored import at, in_buckets

from jamboree_gym import Jamboree
from jamboree_gym.backup.follow import Follower


class Load:
    """Episodes and records that go on being saved."""

    def __init__(self, jam: Jamboree) -> None:
        self._jam = jam
        self._short = jam.record(CountingEnv(length=12))
        self._long = jam.record(CountingEnv(length=10**9))
        self._long.reset()
        self._notes = NoteHandler(jam, "load")

    def go_on(self, seconds: float) -> None:
        """Save for a while, at full speed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            play(self._short, [ACTION] * 12)
            for _ in range(10):
                self._long.step(ACTION)
            self._notes.save({"n": 1})
        self._jam.flush()


def follower_of(jam: Jamboree) -> Follower:
    """Copies from and to the stores of a Jamboree."""
    to = jam._connection.backed_up_to
    return Follower(
        jam._connection.redis_store, lambda: jam._connection.backup_store, to=to, is_new=True
    )


def is_complete(jam: Jamboree) -> bool:
    status = jam.backup.status()
    return (status.pending_logs, status.pending_deletes) == (0, 0)


def pending(jam: Jamboree) -> int:
    """How many logs are not copied; asks for no more than that."""
    return sum(int(jam.redis.zcard(key)) for key in in_buckets(jam, "unbacked"))


def check_that_all_is_kept_once(jam: Jamboree) -> None:
    """Both sides are equal, and MongoDB has no document that is not needed for it."""
    report = jam.backup.verify()
    assert report, report.different
    keys = list(jam._connection.redis_store.log_keys())
    bundled = [log for bundle in jam.mongo.bundles.find({}) for log in bundle["logs"]]
    documents = [*bundled, *jam.mongo.logs.find({}, {"frames": 1})]
    assert len(documents) == len(keys)
    inline = sum(len(one.get("frames", ())) for one in documents)
    assert inline + jam.mongo.chunks.count_documents({}) == sum(
        jam.redis.llen(at(jam, key)) - 1 for key in keys
    )
