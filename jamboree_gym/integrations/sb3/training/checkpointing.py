"""The checkpoints that the callback makes of a model: when, and which of them stay."""

from __future__ import annotations

import logging
import math
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from pickle import PicklingError

from stable_baselines3.common.base_class import BaseAlgorithm

from jamboree_gym.connection import Connection
from jamboree_gym.environment.provenance import class_name
from jamboree_gym.errors import InvalidRecord, JamboreeError
from jamboree_gym.runs.checkpoints import CheckpointHandler
from jamboree_gym.runs.old_checkpoints import OldCheckpoints

__all__ = ["CheckpointSchedule", "ModelCheckpoints"]

log = logging.getLogger(__name__)


class CheckpointSchedule:
    """When a checkpoint is due: after some timesteps, after some seconds, whichever comes first.

    Args:
        every: Timesteps between two checkpoints; None or 0 = they do not count.
        every_s: Seconds between two checkpoints; None or 0 = they do not count.
        clock: Gives the time, seconds; it never goes back.
    """

    def __init__(
        self, every: int | None, every_s: float | None, clock: Callable[[], float]
    ) -> None:
        self._every = every
        self._every_s = every_s
        self._clock = clock
        self._next_timestep = 0.0
        self._next_s = 0.0

    def start_over(self, timesteps: int) -> None:
        """Count from now, and from these timesteps."""
        self._next_timestep = timesteps + (self._every or math.inf)
        self._next_s = self._clock() + (self._every_s or math.inf)

    def is_due(self, timesteps: int) -> bool:
        """Whether a checkpoint is due now; asked at each step."""
        return timesteps >= self._next_timestep or self._clock() >= self._next_s

    def __str__(self) -> str:
        """For people: `every 60 s and at the end`."""
        every = [f"every {self._every_s:g} s"] if self._every_s else []
        every += [f"every {self._every} timesteps"] if self._every else []
        return " and ".join([*every, "at the end"])


class ModelCheckpoints:
    """Saves a model that learns, and deletes old checkpoints of its run.

    The learning thread waits for `model.save` alone. One thread stores what it gave, another one
    deletes, because the backup may be slow. If storing takes longer than a checkpoint is due again,
    one more waits in memory; the learning thread waits only when that is not enough.

    Args:
        model: The model.
        jam: Where its run is kept.
        run: Name of the run.
        session: Id of the session in which it learns.
        newest: How many of the newest checkpoints stay; None = all.
    """

    def __init__(
        self, model: BaseAlgorithm, jam: Connection, run: str, *, session: str, newest: int | None
    ) -> None:
        self._model = model
        self._jam = jam
        self._run = run
        self._handler = CheckpointHandler(jam, run)
        self._session = session
        handler = CheckpointHandler(jam, run)  # another thread uses it
        self._old = None if newest is None else OldCheckpoints(handler, newest)
        self._storing = ThreadPoolExecutor(1, "jamboree-checkpoints")
        self._deleting = ThreadPoolExecutor(1, "jamboree-old-checkpoints")
        self._stored = deque[Future[None]]()  # those whose result nobody has looked at yet
        self._finish = partial(_finish, self._storing, self._deleting)  # keeps no model
        jam.add_close_callback(self._finish)

    def save(self, *, is_final: bool = False) -> None:
        """Keep the model as it is now.

        Args:
            is_final: Whether the session ends with it; then it returns when that is stored.

        Raises:
            InvalidRecord: SB3 cannot save it; says why.
            JamboreeError: This checkpoint or one before could not be stored.
        """
        self._settle(waiting=1)
        model, content = self._model, BytesIO()
        try:
            model.save(content)
        except (AttributeError, TypeError, ValueError, PicklingError) as error:
            raise InvalidRecord(
                f"no checkpoint can be made, because model.save() fails: {error}. What is live (a "
                "connection, a lock) may not be among the arguments of a model"
            ) from error
        put = partial(
            self._handler.put,
            timesteps=model.num_timesteps,
            policy_version=model._n_updates,
            session=self._session,
            algorithm=class_name(type(model)),
            normaliser=_normaliser(model),
            is_final=is_final,
        )
        self._stored.append(self._storing.submit(self._store, content, put))
        if is_final:
            self._settle(waiting=0)

    def _settle(self, *, waiting: int) -> None:
        """Wait until at most `waiting` are not stored; raise why one could not be."""
        while self._stored and (len(self._stored) > waiting or self._stored[0].done()):
            self._stored.popleft().result()

    def _store(self, content: BytesIO, put: Callable[[bytes], None]) -> None:
        put(content.getvalue())
        if self._old is not None:
            with suppress(RuntimeError):  # the interpreter ends: the next session deletes
                self._deleting.submit(self._delete, self._old)

    def end(self) -> None:
        """No more come. Does not wait for the threads; closing the Jamboree does."""
        with suppress(RuntimeError):  # the Jamboree is closed already, or the interpreter ends
            self._storing.submit(self._end_after_the_last)
        self._storing.shutdown(wait=False)

    def _end_after_the_last(self) -> None:
        with suppress(RuntimeError):
            self._deleting.submit(self._jam.remove_close_callback, self._finish)
        self._deleting.shutdown(wait=False)

    def _delete(self, old: OldCheckpoints) -> None:
        """Delete those that may go.

        The backup may be slow. While it or Redis is away, none is deleted; the next call does it.
        """
        try:
            for one in old.found():
                one.delete()
        except JamboreeError as error:
            log.debug("old checkpoints of run %r stay for now: %s", self._run, error)


def _finish(*pools: ThreadPoolExecutor) -> None:
    for pool in pools:
        pool.shutdown()


def _normaliser(model: BaseAlgorithm) -> bytes | None:
    """What SB3 saves of the model's `VecNormalize`."""
    normaliser = model.get_vec_normalize_env()
    if normaliser is None:
        return None
    with tempfile.TemporaryDirectory() as folder:  # it writes to a path only
        path = Path(folder, "vecnormalize.pkl")
        normaliser.save(str(path))
        return path.read_bytes()
