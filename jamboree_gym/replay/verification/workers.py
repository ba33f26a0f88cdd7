"""Verifies in several processes; if one dies, the others continue.

`concurrent.futures` gives up all remaining work when one process dies. Here each process has a
separate pipe and reports after each episode, so it is known at which episode it died.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym

from jamboree_gym.arrays.kinds.registered import register_value, registrations
from jamboree_gym.connection import Connection
from jamboree_gym.environment.references import known_references, learn_references
from jamboree_gym.errors import JamboreeError, ReplayError
from jamboree_gym.replay.rebuilding.known_wrappers import learn_modules, loaded_modules
from jamboree_gym.replay.verification.report import VerifyReport
from jamboree_gym.replay.verification.resimulate import Check, Checked, Resimulator

__all__ = ["Numbered", "checked_in_processes"]

Numbered = tuple[int, str]
"""Position of an episode among all, and its id."""

END_TIMEOUT_S = 10.0  # after this long a process that was asked to end is killed
_READY = "ready"
_CONTEXT = multiprocessing.get_context("spawn")  # a fork would inherit locks that threads hold


def checked_in_processes(
    connection: Connection, check: Check, chunks: Iterable[Sequence[Numbered]], workers: int
) -> Iterator[tuple[int, Checked]]:
    """Verify in several processes, each with its own connection; yield results as they arrive.

    An episode whose process dies is reported with that reason, and a new process continues with the
    next one. Episodes whose environment cannot be made in another process are verified in this one,
    at the end. The episodes of a chunk are read in one round trip.

    Raises:
        ReplayError: The processes cannot be started.
        StoreUnavailable: Redis does not answer.
    """
    team = _Team(_job(connection, check), chunks)
    left: list[Numbered] = []
    try:
        team.start(workers)
        for numbered, checked in team.answers():
            if checked is None:
                left.append(numbered)
            else:
                yield numbered[0], checked
    finally:
        team.end()
    with Resimulator(connection, check) as here:
        for number, id in left:
            (verify_it,) = here.read([id])
            checked = verify_it()
            assert checked is not None  # here, nothing is elsewhere
            yield number, checked


def _job(connection: Connection, check: Check) -> bytes:
    """What a worker process needs, pickled."""
    specs = {name: _pickled(spec) for name, spec in gym.registry.items()}
    try:
        known = [_pickled(one) for one in (registrations(), *known_references())]
        return pickle.dumps((connection.read_options(), check, specs, known, loaded_modules()))
    except Exception as error:
        raise ReplayError(
            f"wrappers=, make= or env_kwargs= cannot be handed to other processes ({error}): "
            "define these at the top of a module, or verify with workers=1"
        ) from error


def _pickled(spec: Any) -> bytes | None:
    """None if it cannot be pickled: it holds a lambda, or a class that a function defines."""
    try:
        return pickle.dumps(spec)
    except Exception:  # noqa: BLE001 - pickling calls what the classes define
        return None


class _Worker:
    def __init__(self, job: bytes) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_work, args=(theirs, job), name="jamboree-verify")
        self.process.start()
        theirs.close()  # so that reading ends when the process does
        self.is_ready = False
        self.chunk: deque[Numbered] = deque()

    def send(self, chunk: Sequence[Numbered]) -> None:
        self.chunk.extend(chunk)
        try:
            self.pipe.send([id for _, id in chunk])
        except OSError:
            return  # it has died: the next read says so

    def end(self) -> None:
        """End the process; kill it if it does not end."""
        self.pipe.close()
        if self.chunk or not self.is_ready:
            self.process.terminate()
        self.process.join(END_TIMEOUT_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def cause_of_death(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"


class _Team:
    """The processes that are at work, and the chunks that none of them has."""

    def __init__(self, job: bytes, chunks: Iterable[Sequence[Numbered]]) -> None:
        self._job = job
        self._waiting = deque(chunks)
        self._workers: dict[Pipe, _Worker] = {}

    def start(self, workers: int) -> None:
        for _ in range(min(workers, len(self._waiting))):
            self._hire()

    def _hire(self) -> None:
        worker = _Worker(self._job)
        self._workers[worker.pipe] = worker

    def answers(self) -> Iterator[tuple[Numbered, Checked | None]]:
        """What becomes of each episode; None where it has to be verified elsewhere."""
        while self._workers:
            for pipe in wait(list(self._workers)):
                worker = self._workers[pipe]  # type: ignore[index] # only pipes are waited for
                try:
                    answer = worker.pipe.recv()
                except (EOFError, OSError):
                    yield from self._bury(worker)
                    continue
                if isinstance(answer, JamboreeError):
                    raise answer
                if answer == _READY:
                    worker.is_ready = True
                else:
                    yield worker.chunk.popleft(), answer
                if not worker.chunk:
                    self._occupy(worker)

    def _occupy(self, worker: _Worker) -> None:
        if self._waiting:
            worker.send(self._waiting.popleft())
        else:
            self._workers.pop(worker.pipe).end()

    def _bury(self, worker: _Worker) -> Iterator[tuple[Numbered, Checked]]:
        """Report the episode at which it died; another process continues with the others."""
        del self._workers[worker.pipe]
        worker.pipe.close()
        cause = worker.cause_of_death()
        if not worker.is_ready:
            raise ReplayError(
                f"a worker process ended before it began ({cause}); a script that verifies in "
                'several needs `if __name__ == "__main__":`'
            )
        if worker.chunk:
            numbered = worker.chunk.popleft()
            error = f"the process that simulated it died ({cause})"
            yield numbered, Checked(VerifyReport(numbered[1], 0, error=error))
        if worker.chunk:
            self._waiting.appendleft(list(worker.chunk))
        if self._waiting:
            self._hire()

    def end(self) -> None:
        for pipe in list(self._workers):
            self._workers.pop(pipe).end()


# -- in the process ---------------------------------------------------------------------------


def _work(pipe: Pipe, job: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends us
    try:
        options, check, specs, known, modules = pickle.loads(job)
        learn_modules(modules)
        elsewhere = _registered(specs)
        _learn(*known)
        connection = Connection(**options)
    except JamboreeError as error:
        pipe.send(error)
        return
    except Exception as error:  # noqa: BLE001 - loading imports what the user has written
        pipe.send(ReplayError(f"a worker process cannot begin: {error!r}"))
        return
    with connection, Resimulator(connection, check, elsewhere=elsewhere) as resimulator:
        pipe.send(_READY)
        while (ids := _received(pipe)) is not None:
            try:
                for verify_it in resimulator.read(ids):
                    pipe.send(verify_it())
            except JamboreeError as error:
                pipe.send(error)
            except BrokenPipeError:
                return  # nobody listens any more


def _received(pipe: Pipe) -> list[str] | None:
    try:
        ids: list[str] = pipe.recv()
        return ids
    except (EOFError, OSError):
        return None


def _learn(registrations: bytes | None, *references: bytes | None) -> None:
    """What the parent process knows of values and arguments."""
    for content in filter(None, references):
        with suppress(Exception):  # loading imports what the user has written
            learn_references([pickle.loads(content)])
    if registrations is not None:
        with suppress(Exception):
            for one in pickle.loads(registrations):
                register_value(*one)


def _registered(specs: Mapping[str, bytes | None]) -> set[str]:
    """Register the environments of the parent process here; those that cannot be are returned."""
    failed = set()
    for name, content in specs.items():
        try:
            gym.registry[name] = pickle.loads(content or b"")
        except Exception:  # noqa: BLE001 - loading imports what the user has written
            failed.add(name)
    return failed
