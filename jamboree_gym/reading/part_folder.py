"""A folder of parts, each of which is whole or not there: what every export of episodes shares.

An export that was killed is continued by the next call: what it had not finished is removed, and
the episodes that the parts hold are not written again. A format says only how a part is written.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from jamboree_gym.errors import ExportError, JamboreeError
from jamboree_gym.progress import Progress, reported
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.wording import one_line, shortened

__all__ = ["PartFolder", "PatientFile", "aside_of", "whole", "writing_to"]

_MAX_REASON = 200  # characters
_ASIDE = ".jamboree-new"  # no other program uses this ending, so what a kill left is removed

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class PartFolder:
    """The parts that an export writes.

    Args:
        path: The folder.
        pattern: Names of the parts; the number of each stands for the `*`.
        lock: The file of the lock; None = `.lock` in the folder, as readers of data sets ignore
            names that begin with a dot.
        shown: What messages call the folder; None = its path.
    """

    def __init__(
        self, path: Path, pattern: str, *, lock: Path | None = None, shown: str | None = None
    ) -> None:
        self.path = path
        self._pattern = pattern
        self._lock = lock or path / ".lock"
        self._shown = shown or str(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, be its only writer, and remove what a killed process had not finished.

        Raises:
            ExportError: Another process writes there, it is no folder, or it cannot be written to.
        """
        from filelock import FileLock, Timeout  # here: it takes a while to load

        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            message = f"{self.path} is a file: name a folder, into which several files go"
            raise ExportError(message) from error
        except OSError as error:
            raise _unwritable(self._shown, error) from error
        with writing_to(self._shown):
            try:
                lock = FileLock(self._lock, timeout=0).acquire()
            except Timeout as error:
                message = f"{self._shown}: another process is writing there; wait for it"
                raise ExportError(message) from error
            with lock:
                for left in list(self.path.rglob(f".*{_ASIDE}*")):
                    _remove(left)
                yield

    def paths(self) -> list[Path]:
        """The parts that are there, in order."""
        return sorted(self.path.glob(self._pattern))

    def next(self) -> Path:
        """Path of the part that comes next."""
        number = len(self.paths())
        while (path := self.path / self._pattern.replace("*", f"{number:05}")).exists():
            number += 1  # an earlier one was removed by hand
        return path

    def rest(
        self,
        found: Found,
        lengths: Mapping[str, int],
        read: Callable[[Found], Iterator[tuple[int, _T]]],
        progress: bool | Progress,
    ) -> Iterator[_T]:
        """Read the episodes that are over and not written; warn of written ones that have grown.

        Args:
            found: The episodes of the export.
            lengths: Number of steps of each episode that is written, by its id.
            read: Yields how many episodes are read to their end, and the next part.
            progress: Is told how many are written, those of earlier calls included.
        """
        over = [one for one in found if one.status != "running"]
        grown = [one.id for one in over if one.steps > lengths.get(one.id, one.steps)]
        if grown:
            log.warning(
                "%d episodes in %s lack their newest steps, as they went on after they were "
                "written (interrupted: their process was only stopped): %s. Another place gets all "
                "of them",
                len(grown),
                self._shown,
                ", ".join(grown),
            )
        wanted = [one for one in over if one.id not in lengths]
        before = len(over) - len(wanted)
        counted = ((before + done, part) for done, part in read(wanted))
        return reported(counted, len(over), progress, done_is="written")


@contextmanager
def writing_to(shown: object) -> Iterator[None]:
    """Raise an error of ours, which names file or folder, where the system refuses a write."""
    try:
        yield
    except OSError as error:
        raise _unwritable(shown, error) from error


def _unwritable(shown: object, error: OSError) -> ExportError:
    """The error for what the system does not let us write: no room, no right, no such folder."""
    reason = shortened(one_line(error.strerror or str(error)), _MAX_REASON)
    return ExportError(
        f"{shown} cannot be written: {reason}\ncall again when that is mended, or write elsewhere"
    )


class PatientFile:
    """A file for HDF5 that never refuses a write, also where the disk is full.

    If a write fails, HDF5 cannot close the file, and the process may crash later. So the first
    error is kept, and raised by `check` and at the end; what is written after it is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise what has stopped a write, if anything has."""
        if self._error is not None:
            raise self._error

    def write(self, content: Any) -> int:
        """Write, or drop what is written after an error."""
        view = memoryview(content).cast("B")
        try:
            done = 0
            while self._error is None and done < len(view):
                done += self._file.write(view[done:])
        except OSError as error:
            self._error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def read(self, size: int = -1) -> bytes:
        """Read this many bytes, or all."""
        return self._file.read(size) or b""

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; the number of bytes."""
        return self._file.readinto(buffer) or 0

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """The place."""
        return self._file.tell()

    def flush(self) -> None:
        """Nothing waits in this process; `whole` has the system write it to the disk."""

    def __enter__(self) -> PatientFile:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._file.close()
        is_told = isinstance(error, JamboreeError) or not isinstance(error, Exception | None)
        if self._error is not None and not is_told:
            raise self._error


def aside_of(path: Path) -> Path:
    """Where a file or folder is written before it is moved to `path`."""
    return path.with_name(f".{path.name}{_ASIDE}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file or folder; it is moved to `path` when it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        yield aside
        for written in (aside, *aside.rglob("*")):
            if written.is_file():
                with written.open("rb") as file:
                    os.fsync(file.fileno())
        aside.replace(path)
    finally:
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse to write where a file is already, unless that is wanted.

    Raises:
        ExportError: There is one.
    """
    if not overwrite and path.exists():
        raise ExportError(f"{path} is there already: overwrite=True replaces it")
