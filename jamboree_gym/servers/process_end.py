"""Waits on an event loop, without polling: for the end of a process, and for the first of several.

Linux says by a descriptor (a pidfd) that a process has ended, also one that is not our child.
Elsewhere the process is looked at from time to time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["first_of", "until_ended"]

CHECK_INTERVAL_S = 0.25  # where there are no pidfds: macOS, and Linux before 5.3


async def until_ended(pid: int, is_alive: Callable[[], bool]) -> None:
    """Return once a process has ended.

    `is_alive` says whether the process with this id is still the one that is meant.
    """
    descriptor = _pidfd(pid)
    if descriptor is None:
        while is_alive():
            await asyncio.sleep(CHECK_INTERVAL_S)
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        if is_alive():  # asked last: so the descriptor is not that of a later process
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def first_of(*waits: Coroutine[Any, Any, Any]) -> None:
    """Return once the first of these has returned; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _pidfd(pid: int) -> int | None:
    open_pidfd = getattr(os, "pidfd_open", None)
    try:
        return None if open_pidfd is None else open_pidfd(pid)
    except OSError:  # the process has ended, or this kernel has no pidfds
        return None
