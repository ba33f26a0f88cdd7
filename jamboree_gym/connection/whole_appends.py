"""Appends of what is complete already: on the caller's thread, and without a lease."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import structs

from jamboree_gym.errors import JamboreeError
from jamboree_gym.store.log import Append, AppendResult
from jamboree_gym.store.read_through import ReadThroughStore

__all__ = ["append_whole"]


def append_whole(
    store: ReadThroughStore,
    appends: Sequence[Append],
    *,
    fsync: bool,
    on_delivery: Callable[[], None] | None,
) -> list[AppendResult]:
    """Append to a store until each append is stored: see `Connection.append_whole`."""
    results: dict[int, AppendResult] = {}
    stored = dict.fromkeys(range(len(appends)), 0)  # batches that were found when it was asked
    waiting = dict(enumerate(appends))
    while waiting:
        answers = store.append(list(waiting.values()), fsync=fsync)
        if on_delivery is not None:
            on_delivery()
        answered = dict(zip(waiting, answers, strict=True))
        for answer in answered.values():
            if isinstance(answer, JamboreeError):
                raise answer
        results |= {at: one for at, one in answered.items() if isinstance(one, AppendResult)}
        waiting = _to_send_again(store, waiting, results, stored)
    return [
        structs.replace(results[at], stored=results[at].stored + count)
        for at, count in stored.items()
    ]


def _to_send_again(
    store: ReadThroughStore,
    sent: Mapping[int, Append],
    results: dict[int, AppendResult],
    stored: dict[int, int],
) -> dict[int, Append]:
    """What could not be stored before the backup is asked, or until it is sent on purpose.

    Batches that are found to be stored are counted, and not sent again.
    """
    again = {at: one for at, one in sent.items() if results[at].is_deleted and not one.is_repeated}
    unknown = {at: one for at, one in sent.items() if results[at].must_ask}
    if unknown:
        asked = store.ask_for(list(unknown.values()))
        for error in asked.failed.values():
            raise error
        for at, one in unknown.items():
            if one.is_repeated and one.key in asked.deleted:
                results[at] = AppendResult(0, 0, -math.inf, is_deleted=True)
                continue
            found = asked.stored.get(one.key, 0)
            stored[at] += found
            again[at] = structs.replace(
                one,
                batches=one.batches[found:],
                asked_in=asked.epoch,
                is_uncertain=asked.is_uncertain,
                is_repeated=False,
            )
    return again
