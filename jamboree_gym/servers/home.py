"""The home directory of the embedded servers: paths, permissions, and the supervisor's record."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from jamboree_gym.errors import EmbeddedServerError, InvalidArgument
from jamboree_gym.servers.own_files import check_entry, foreign, open_own, read_own

__all__ = [
    "Home",
    "SupervisorRecord",
    "default_home",
    "last_line",
    "remove_durably",
    "trim_log",
    "write_private",
]

HOME_VARIABLE = "JAMBOREE_HOME"
# sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included.
MAX_SOCKET_PATH_BYTES = 103
MAX_LOG_BYTES = 1 << 20
_START_LOCK = "start.lock"
CONTROL_SOCKET = "control.sock"
VALKEY_SOCKET = "valkey.sock"
_SERVERS = ("valkey", "mongo")


def default_home() -> Path:
    """The home unless another is given: `JAMBOREE_HOME`, else the directory for user data."""
    named = os.environ.get(HOME_VARIABLE)
    if named == "":
        raise InvalidArgument(
            f"{HOME_VARIABLE} is empty: set it to a directory, or unset it (then it is your "
            "directory for user data)"
        )
    if named is not None:
        return Path(named)
    return platformdirs.user_data_path("jamboree-gym", appauthor=False)


@dataclass(frozen=True, slots=True)
class SupervisorRecord:
    """The file by which clients find the supervisor: its process, machine and control socket.

    A home on a network disk is visible on several machines.
    """

    pid: int
    host: str
    control: str


class _File:
    """Path of a file of a home, by its name there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, home: Home, _: type[Home]) -> Path:
        return home.path / self._name


@dataclass(frozen=True, slots=True)
class Home:
    """The paths inside one home directory. Making this object touches nothing on disk.

    Attributes:
        path: The directory, absolute and without symlinks.
        start_lock: Lock of a client that starts a supervisor; held until the supervisor answers.
        supervisor_lock: Lock of the supervisor; held for as long as it lives.
        supervisor_log: Log file of the supervisor, also with the reason of its end.
        record_file: File with the `SupervisorRecord`, as JSON.
        mongo_file: File with port, user and password of the Mongo server.
        mongo_settings: Settings file of the Mongo server; empty.
        mongo_unused: Marker: nobody has been given access to the Mongo server, so it holds nothing.
        backup_folder: Directory of the backup where no Mongo server is installed.
    """

    path: Path

    start_lock = _File(_START_LOCK)
    supervisor_lock = _File("supervisor.lock")
    supervisor_log = _File("supervisor.log")
    record_file = _File("supervisor.json")
    mongo_file = _File("mongo.json")
    mongo_settings = _File("secantusd.toml")
    mongo_unused = _File("mongo.unused")
    backup_folder = _File("backup")

    @classmethod
    def at(cls, path: Path | str | None) -> Home:
        """The home at `path`, or the default one."""
        chosen = default_home() if path is None else Path(path)
        try:
            return cls(chosen.expanduser().resolve())
        except (OSError, RuntimeError) as error:  # a loop of symlinks, an unknown "~name"
            raise EmbeddedServerError(_unusable(chosen, error)) from error

    def data_dir(self, server: str) -> Path:
        """The data directory of one server."""
        return self.path / server

    def server_log(self, server: str) -> Path:
        """Output of one server."""
        return self.path / f"{server}.log"

    def server_lock(self, server: str) -> Path:
        """Lock of a server process (and its forks); held even after its supervisor has died."""
        return self.path / f"{server}.lock"

    @property
    def mongo_holds_data(self) -> bool:
        """Whether the Mongo server has a data directory, and anybody was given access to it."""
        return self.data_dir("mongo").is_dir() and not self.mongo_unused.exists()

    def prepare(self) -> None:
        """Make the directory if it is missing, and make it private.

        Raises:
            EmbeddedServerError: The directory cannot be made; or it, or something in it, belongs to
                another user.
        """
        _make_private(self.path, self._check_entries)

    def check(self) -> bool:
        """Whether the directory exists. Makes and changes nothing.

        Raises:
            EmbeddedServerError: The directory, or something in it, belongs to another user.
        """
        try:
            found = self.path.lstat()
            if found.st_uid != os.geteuid():
                raise foreign(self.path, found.st_uid)
            self._check_entries()
        except OSError:  # the directory is missing, or we may not read it
            return False
        return True

    def _check_entries(self) -> None:
        """Check that every file that we open, lock, connect to or write to is ours."""
        entries = [self.start_lock, self.supervisor_lock, self.supervisor_log, self.record_file]
        entries += [self.mongo_file, self.mongo_settings, self.mongo_unused]
        entries += [self.server_log("backup"), self.backup_folder]
        for server in _SERVERS:
            entries += [self.data_dir(server), self.server_log(server), self.server_lock(server)]
        for entry in entries:
            check_entry(entry)
        _check_sockets(self.path)

    @property
    def socket_dir(self) -> Path:
        """Directory for the sockets: the home, or a short one if the home's path is too long."""
        if len(os.fsencode(self.path / CONTROL_SOCKET)) <= MAX_SOCKET_PATH_BYTES:
            return self.path
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        name = f"jamboree-{os.geteuid()}-{digest}"
        base = Path(tempfile.gettempdir())
        if len(os.fsencode(base / name / CONTROL_SOCKET)) > MAX_SOCKET_PATH_BYTES:
            base = Path("/tmp")
        return base / name

    def prepare_socket_dir(self) -> Path:
        """The directory for the sockets, made private."""
        sockets = self.socket_dir
        if sockets != self.path:
            _make_private(sockets, lambda: _check_sockets(sockets))
        return sockets

    def read_record(self) -> SupervisorRecord | None:
        """The record of the supervisor, which may have been killed; None if there is no record.

        Raises:
            EmbeddedServerError: Another user wrote the record.
        """
        try:
            record = SupervisorRecord(**json.loads(read_own(self.record_file)))
        except (OSError, RecursionError, TypeError, ValueError):  # no record, or another version
            return None
        kinds = [type(value) for value in asdict(record).values()]
        return record if kinds == [int, str, str] and 0 < record.pid < 2**31 else None

    def write_record(self, record: SupervisorRecord) -> None:
        """Write the record, so that clients find the supervisor."""
        write_private(self.record_file, asdict(record))

    def unusable(self, error: OSError) -> EmbeddedServerError:
        """The error for a home that the operating system refuses to write to."""
        return EmbeddedServerError(_unusable(self.path, error))


def write_private(path: Path, fields: dict[str, Any]) -> None:
    """Replace a JSON file atomically; only its owner can read it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        draft.unlink(missing_ok=True)  # a killed process left it, or it is a link
        descriptor = open_own(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "w") as file:
            json.dump(fields, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise EmbeddedServerError(_unusable(path.parent, error)) from error


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there, so that it stays away after a loss of power."""
    try:
        path.unlink()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EmbeddedServerError(_unusable(path.parent, error)) from error


def last_line(log: Path, *, since_byte: int = 0) -> str:
    """The last line of a log that is not blank; empty if there is none."""
    try:
        with os.fdopen(open_own(log, os.O_RDONLY), "rb") as file:
            file.seek(max(since_byte, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except (EmbeddedServerError, OSError):
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def trim_log(log: Path) -> int:
    """Rename a log that has grown large; return the size of the current log."""
    try:
        size_bytes = log.lstat().st_size
    except FileNotFoundError:
        return 0
    if size_bytes > MAX_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.old"))
        return 0
    return size_bytes


def _check_sockets(directory: Path) -> None:
    for name in (CONTROL_SOCKET, VALKEY_SOCKET):
        check_entry(directory / name)


def _make_private(path: Path, check_entries: Callable[[], None]) -> None:
    """Make a private directory, and then check the files that others may have left in it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(None, "it is not a directory")
        if found.st_uid != os.geteuid():
            raise PermissionError(None, f"it belongs to another user (uid {found.st_uid})")
        if stat.S_IMODE(found.st_mode) & 0o077:
            check_entries()  # before, too: the directory may be open to others for a good reason
            _close_to_others(path)
    except OSError as error:
        raise EmbeddedServerError(_unusable(path, error)) from error
    check_entries()


def _close_to_others(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_it_is_for_us(descriptor)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def _check_it_is_for_us(directory: int) -> None:
    """Refuse a directory that others use: closing /tmp or a user's home to them would do harm."""
    names = set(os.listdir(directory))
    if names and _START_LOCK not in names:
        raise FileExistsError(None, "it holds other things and is open to other users")


def _unusable(path: Path, error: Exception) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (
        f"cannot keep the embedded servers in {path}: {reason}\n"
        f"name a directory of your own with free space: home=... or {HOME_VARIABLE}=..."
    )
