"""Snapshots of an environment in a side log: a fork can continue from one without a replay."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium as gym

from jamboree_gym.connection import HasConnection
from jamboree_gym.environment.env_state import state_gap, take_state
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.handlers.sidecar import (
    CODEC,
    SidecarHandler,
    SidecarRecorder,
    check_size,
    compress,
    decompress,
    is_kth,
)

__all__ = ["SnapshotHandler", "SnapshotRecorder"]


class SnapshotHandler(SidecarHandler):
    """The snapshots of an episode, made by `env_state` and compressed.

    Example:
        >>> handler = SnapshotHandler(jam)
        >>> handler["episode"] = episode_id
        >>> handler.put(0, take_state(env))
        >>> handler.newest(before=10)
        (0, b"...")
    """

    _content_is = "snapshot"

    def __init__(self, jam: HasConnection | None = None) -> None:
        super().__init__(jam)
        self.entity = "snapshot"

    def put(self, step: int, state: bytes) -> None:
        """Store the state after this many steps; states come in ascending order.

        Raises:
            InvalidRecord: The state is larger than 128 MiB.
        """
        check_size(len(state), f"the snapshot of step {step}")
        content = compress(state, asbytes=True)
        self._put({"step": step, "size": len(state), "codec": CODEC, "content": content})

    def _content(self, record: Mapping[str, Any]) -> bytes:
        step, size = record["step"], record["size"]
        if record["codec"] != CODEC or step < 0:
            raise ValueError(f"{record['codec']!r}, {size} bytes, step {step}")
        content: bytes = decompress(record["content"], size).to_pybytes()
        return content


class SnapshotRecorder(SidecarRecorder):
    """Records the state of an environment (without its recorder) at the reset and every k-th step.

    Raises:
        InvalidArgument: k (`every`) is invalid, or a layer of the environment offers no state.
    """

    def __init__(self, jam: HasConnection, env: gym.Env[Any, Any], every: int) -> None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise InvalidArgument(f"snapshot_every={every!r}: choose k for every k-th step")
        gap = state_gap(env)
        if gap is not None:
            raise InvalidArgument(
                f"snapshot_every={every}: {gap}. Without, forks play steps again."
            )
        super().__init__(SnapshotHandler(jam), partial(take_state, env), partial(is_kth, every))
