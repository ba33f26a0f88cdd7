"""Ids and start times of new episodes: none comes twice, however the clock is set."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from itertools import count

__all__ = ["EpisodeStamps"]

_ID = struct.Struct(">Q8sH")  # milliseconds, writer, number
_ZEROS = 4  # digits that milliseconds do not reach


class EpisodeStamps:
    """Gives each new episode of one Jamboree its id and the time at which it begins.

    Args:
        clock: Gives the time, epoch seconds; may be set back, and may stand still.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._numbers = count()
        self._newest_id_ms = 0
        self._newest_start = -math.inf

    def new_id(self, writer: bytes) -> str:
        """32 hexadecimal digits that sort by time of creation.

        Args:
            writer: Eight bytes, which are 16 of these digits.
        """
        number = next(self._numbers) & 0xFFFF
        # When the numbers begin anew, the time advances by 1 ms, even if the clock stands still.
        self._newest_id_ms = max(int(self._clock() * 1000), self._newest_id_ms + (number == 0))
        return _ID.pack(self._newest_id_ms, writer, number).hex()[_ZEROS:]

    def start_time(self, after: float) -> float:
        """Now, epoch seconds, but later than `after` and than every start before."""
        now, latest = self._clock(), max(self._newest_start, after)
        self._newest_start = now if now > latest else math.nextafter(latest, math.inf)
        return self._newest_start

    def new_many(self, number: int, writer: bytes, after: float) -> list[tuple[str, float]]:
        """Ids and start times of several episodes, as `new_id` and `start_time` give them.

        Args:
            number: Of the episodes.
            writer: As above.
            after: Likewise.
        """
        return [(self.new_id(writer), self.start_time(after)) for _ in range(number)]
