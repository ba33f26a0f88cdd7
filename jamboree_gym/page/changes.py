"""Server-sent events: what has changed of what a tab shows, at most four times a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from starlette.concurrency import run_in_threadpool

from jamboree_gym.errors import EpisodeNotFound, JamboreeError, RunNotFound
from jamboree_gym.page.plain import as_json

__all__ = ["RETRY_S", "events"]

PAUSE_S: Final = 0.25
RETRY_S: Final = 1.0
BEAT_S: Final = 15.0  # a comment at least so often: else nobody notices that a tab has gone

Look = Callable[[], Mapping[str, Any]]
"""What a tab shows now, by the name of each part."""


async def events(
    look: Look, told: Callable[[JamboreeError], Mapping[str, Any]], closing: asyncio.Event
) -> AsyncIterator[bytes]:
    """Events for one tab: `change` with the parts that are new, `away` while the store is away.

    Args:
        look: Reads what is shown; runs in a thread.
        told: What is said of an error.
        closing: Set when the server stops: then they end.
    """
    shown: dict[str, bytes] = {}
    is_away, quiet_s = False, 0.0
    yield b"retry: 1000\n\n"
    while not closing.is_set():
        pause_s = PAUSE_S
        try:
            found = await run_in_threadpool(look)
        except (EpisodeNotFound, RunNotFound) as error:
            yield _event("gone", as_json(told(error)))
            return
        except JamboreeError as error:
            if not is_away:
                yield _event("away", as_json(told(error)))
            is_away, pause_s = True, RETRY_S
        else:
            parts = {name: as_json(part) for name, part in found.items()}
            new = {name: part for name, part in parts.items() if shown.get(name) != part}
            if is_away:
                yield _event("back", b"{}")
                new = parts
            is_away = False
            if new:
                shown.update(new)
                yield _event("change", _joined(new))
                quiet_s = 0.0
        quiet_s += pause_s
        if quiet_s >= BEAT_S:
            yield b": still here\n\n"
            quiet_s = 0.0
        with suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), pause_s)


def _event(name: str, content: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + content + b"\n\n"


def _joined(parts: Mapping[str, bytes]) -> bytes:
    """An object of parts that are JSON already; each has one line."""
    return b"{" + b",".join(as_json(name) + b":" + part for name, part in parts.items()) + b"}"
