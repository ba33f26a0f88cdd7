"""Pictures of an episode as PNG: rendered frames, recorded or simulated again, and observations."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from jamboree_gym.arrays.trees import leaves_of
from jamboree_gym.encoding.png import png
from jamboree_gym.errors import InvalidArgument, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import ReplayEnv

__all__ = ["Picture", "Simulations", "observed_picture", "recorded_frame"]

MAX_SIMULATIONS: Final = 4
MAX_CACHED_BYTES: Final = 64 << 20
RENDERED_BACK: Final = 24  # frames before the one that is asked for, when a simulation begins anew


class Picture(NamedTuple):
    """A PNG, and the step that it shows."""

    content: bytes
    step: int


def encoded(picture: npt.NDArray[Any]) -> bytes:
    """An array as PNG: (h, w) is grey, (h, w, 3) and (h, w, 4) are colours.

    Raises:
        InvalidArgument: It is no such picture.
    """
    return png(_pixels(picture), level=1)


def _pixels(picture: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """As (h, w, 1), (h, w, 3) or (h, w, 4) bytes."""
    if picture.dtype.kind not in "biuf" or picture.ndim not in (2, 3) or not picture.size:
        raise InvalidArgument(f"{picture.dtype} {picture.shape} is no picture")
    if picture.ndim == 2:
        picture = picture[..., None]
    elif picture.shape[2] not in (1, 3, 4):
        if picture.shape[0] == 3:
            picture = picture.transpose(1, 2, 0)
        elif picture.shape[0] < picture.shape[2]:  # (stacked frames, h, w): the newest one
            picture = picture[-1][..., None]
        else:
            picture = picture[..., -1:]
    if picture.dtype != np.uint8:
        finite = np.nan_to_num(picture.astype(np.float64))
        top = 255.0 if finite.max() > 1.0 else 1.0
        picture = (finite / top * 255).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture)


def recorded_frame(episode: Episode, step: int) -> Picture | None:
    """The newest recorded frame up to a step; None if there is none.

    Raises:
        InvalidArgument: There is no such step.
    """
    if step < 0:
        raise InvalidArgument(f"step={step}: steps count from 0")
    newest = episode._renders().newest(before=step + 1)
    return None if newest is None else Picture(encoded(newest[1]), newest[0])


def observed_picture(episode: Episode, leaf: str, step: int) -> bytes:
    """A part of the observation before a step, or after the newest one.

    Raises:
        InvalidArgument: There is no such step or part, or it is no picture.
    """
    observations = episode._rows(step, step + 1).observations if step >= 0 else {}
    for path, values in leaves_of(observations, "observation"):
        if "_".join(map(str, path)) == leaf and len(values):
            return encoded(np.asarray(values[0]))
    raise InvalidArgument(f"step {step} has no picture {leaf!r}")


class Simulations:
    """Environments that play episodes again, to show what they render."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Simulation] = OrderedDict()

    def frame(self, episode: Episode, step: int) -> bytes:
        """The frame after a step; the simulation equals the recording up to there, bit for bit.

        Raises:
            ReplayError: The environment cannot be made or rendered here, or it does not do the
                same again.
        """
        with self._lock:
            one = self._open.get(episode.id)
            if one is None:
                one = self._open[episode.id] = _Simulation(episode)
            self._open.move_to_end(episode.id)
            ended = []
            while len(self._open) > MAX_SIMULATIONS:
                ended.append(self._open.popitem(last=False)[1])
        for other in ended:
            other.close()
        try:
            return one.frame(step)
        finally:
            with self._lock:
                is_kept = self._open.get(episode.id) is one
            if not is_kept:  # another thread has closed it before this one has used it
                one.close()

    def close(self) -> None:
        """Close all environments."""
        with self._lock:
            ended, self._open = list(self._open.values()), OrderedDict()
        for one in ended:
            one.close()


class _Simulation:
    """One episode, and the frames that it has shown."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._lock = threading.Lock()
        self._env: ReplayEnv | None = None
        self._step = 0
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def frame(self, step: int) -> bytes:
        with self._lock:
            known = self._frames.get(step)
            if known is None:
                self._play_to(step)
                known = self._frames[step]
            return known

    def _play_to(self, step: int) -> None:
        if self._env is None or step < self._step or step > self._step + self._env.remaining:
            self._begin()
        env = self._env
        if env is None or step > self._step + env.remaining:
            raise ReplayError(f"the episode has no step {step}")
        while self._step < step:
            if step - self._step <= RENDERED_BACK:
                self._render(env)
            env.step(env.recorded_action)
            self._step += 1
        self._render(env)

    def _begin(self) -> None:
        self._close()
        self._env = ReplayEnv(self._episode, render_mode="rgb_array", frames="simulated")
        self._env.reset()
        self._step = 0

    def _render(self, env: ReplayEnv) -> None:
        if self._step in self._frames:
            return
        content = self._frames[self._step] = encoded(np.asarray(env.render()))
        self._bytes += len(content)
        while self._bytes > MAX_CACHED_BYTES and len(self._frames) > 1:
            self._bytes -= len(self._frames.popitem(last=False)[1])

    def _close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            env.close()

    def close(self) -> None:
        with self._lock:
            self._close()
