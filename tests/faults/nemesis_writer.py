"""A process that records and saves until a file appears, and says what was acknowledged when.

Each line that it writes is a JSON list: ["acked", before the call, after it, what, how many],
["error", its class, its words], or ["closed"].
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import NoteHandler
from recorded_envs import ACTION, CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.errors import JamboreeError, StoreUnavailable

LONGEST = 40
FLUSH_TIMEOUT_S = 3.0


def say(*what: object) -> None:
    """Write a line."""
    print(json.dumps(what), flush=True)


def attempt(call: Callable[[], object]) -> bool:
    """Whether it worked; says why not."""
    try:
        call()
    except JamboreeError as error:
        say("error", type(error).__name__, str(error)[:200])
        return False
    return True


class Writer:
    """Records episodes of a run, and saves records of two handlers, one of them shared.

    Args:
        jam: Where to.
        name: Of the run, and of the handler that is its own.
    """

    def __init__(self, jam: Jamboree, name: str) -> None:
        self.jam = jam
        self.name = name
        self.is_buffered = jam._connection.write_mode == "buffered"
        self.env: Any = jam.record(CountingEnv(), run=name)
        self.notes = {kind: NoteHandler(jam, kind) for kind in (name, "shared")}
        self.saved = dict.fromkeys(self.notes, 0)
        # What the next flush that works acknowledges: since when it may be in Redis, and how much.
        self.waiting: dict[str, tuple[float, int]] = {}

    def go_on(self) -> None:
        """An episode, and perhaps a record."""
        self.env.unwrapped.length = random.randint(1, LONGEST)
        attempt(self.env.reset)
        if self.env.handler.writing is not None:
            self._play(self.env.episode_id)
        if random.random() < 0.5:
            self._save(random.choice(list(self.notes)))
        if self.is_buffered and random.random() < 0.3:
            self._flush()

    def _play(self, episode: str) -> None:
        for step in range(1, self.env.unwrapped.length + 1):
            before = time.time()
            is_confirmed = attempt(lambda: self.env.step(ACTION))
            if not is_confirmed and self.env.handler.writing is None:
                return
            self._claim(before, episode, step, is_confirmed=is_confirmed)
            time.sleep(random.random() * 0.004)

    def _save(self, kind: str) -> None:
        before = time.time()
        self.saved[kind] += 1
        record = {"by": self.name, "n": self.saved[kind]}
        is_confirmed = attempt(lambda: self.notes[kind].save(record))
        self._claim(before, f"note {kind}", self.saved[kind], is_confirmed=is_confirmed)

    def _claim(self, before: float, what: str, count: int, *, is_confirmed: bool) -> None:
        if self.is_buffered:
            since, _ = self.waiting.get(what, (before, 0))
            self.waiting[what] = since, count
        elif is_confirmed:
            say("acked", before, time.time(), what, count)

    def _flush(self) -> None:
        waiting, self.waiting = self.waiting, {}
        if attempt(lambda: self.jam.flush(FLUSH_TIMEOUT_S)):
            for what, (since, count) in waiting.items():
                say("acked", since, time.time(), what, count)


def main(redis_url: str, mongo_url: str, namespace: str, name: str, mode: Any, stop: str) -> None:
    """Go on until the file `stop` is there."""
    random.seed(name)
    urls = (redis_url, mongo_url)
    while True:
        try:
            jam = Jamboree(*urls, namespace=namespace, write=mode, backup=False)
            break
        except StoreUnavailable:  # it was killed just now
            time.sleep(0.1)
    writer = Writer(jam, name)
    while not Path(stop).exists():
        writer.go_on()
    attempt(jam.close)
    say("closed")


if __name__ == "__main__":
    main(*sys.argv[1:])
