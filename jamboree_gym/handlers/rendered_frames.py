"""Rendered frames of an environment; each episode has its own log of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.layout import number_dtype
from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.environment.provenance import generator_of
from jamboree_gym.errors import InvalidArgument, InvalidRecord
from jamboree_gym.handlers.sidecar import (
    CODEC,
    SidecarHandler,
    SidecarRecorder,
    check_size,
    compress,
    decompress,
    is_kth,
)

__all__ = ["RENDER_MODE", "RecordFrames", "RenderHandler", "RenderRecorder", "rendered"]

RecordFrames: TypeAlias = bool | int | Callable[[int], bool] | None
"""A number k for every k-th step (the reset is step 0), or a function of the step's number."""

RENDER_MODE: Final = "rgb_array"
_KINDS: Final = "biuf"


def rendered(env: gym.Env[Any, Any]) -> Any:
    """A rendered frame. If rendering uses the environment's generator, its state is restored."""
    generator = generator_of(env)
    if generator is None:
        return env.render()
    state = generator.bit_generator.state
    try:
        return env.render()
    finally:
        generator.bit_generator.state = state


class RenderHandler(SidecarHandler):
    """The rendered frames of an episode, compressed without loss.

    Example:
        >>> handler = RenderHandler(jam)
        >>> handler["episode"] = episode_id
        >>> handler.put(0, env.render())
        >>> next(handler.frames())
        (0, array([[[255, 255, 255], ...
    """

    _content_is = "rendered frame"

    def __init__(self, jam: HasConnection | None = None) -> None:
        super().__init__(jam)
        self.entity = "render"

    def put(self, step: int, frame: Any) -> None:
        """Store the frame of a step; steps come in ascending order.

        Raises:
            InvalidRecord: The frame is not an array of numbers, or is larger than 128 MiB.
        """
        if not isinstance(frame, np.ndarray) or frame.dtype.kind not in _KINDS:
            raise InvalidRecord(
                f"env.render() returned a {type(frame).__name__} at step {step}, not an array of "
                "pixels: it cannot be recorded with record_frames="
            )
        check_size(frame.nbytes, f"the frame of step {step}")
        content = compress(np.ascontiguousarray(frame), asbytes=True)
        kind = {"shape": list(frame.shape), "dtype": frame.dtype.str}
        self._put({"step": step, **kind, "codec": CODEC, "content": content})

    @checked
    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Any]]:
        """Yield (step, frame) from `start` to `stop` (exclusive), in order, for steps with a frame.

        Reads parts of about a megabyte, on demand.
        """
        index = self._first_of(start)
        while page := self._page(index):
            for record in page:
                if stop is not None and record["step"] >= stop:
                    return
                yield self._decoded(record, where=self._key)
                index = record["index"] + 1

    def _content(self, record: Mapping[str, Any]) -> npt.NDArray[Any]:
        dtype, shape = number_dtype(record["dtype"]), record["shape"]
        if record["codec"] != CODEC or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"{record['codec']!r} of shape {shape} is never stored")
        content = decompress(record["content"], math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape)


class RenderRecorder(SidecarRecorder):
    """Records the frames that `render` returns, at the chosen steps.

    Raises:
        InvalidArgument: `record_frames` is invalid, see `RecordFrames`.
    """

    def __init__(
        self, jam: HasConnection, render: Callable[[], Any], record_frames: RecordFrames
    ) -> None:
        super().__init__(RenderHandler(jam), render, _choice(record_frames))


def _choice(record_frames: RecordFrames) -> Callable[[int], bool]:
    if callable(record_frames):
        return record_frames
    if isinstance(record_frames, int) and record_frames >= 1:
        return partial(is_kth, int(record_frames))
    raise InvalidArgument(
        f"record_frames={record_frames!r}: choose k for every k-th step, or a function of the "
        "step's number that says whether to"
    )
