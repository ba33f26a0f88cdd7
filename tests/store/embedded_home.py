"""What the tests of the embedded servers share: a home of their own, and clients to kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from conftest import quick_disk
from filelock import FileLock

import jamboree_gym
from jamboree_gym.servers.embedded import EmbeddedServers, ServerStatus, server_status
from jamboree_gym.servers.home import Home
from jamboree_gym.servers.programs.mongo import MongoProgram, _free_port

PATIENCE_S = 60.0
SUPERVISOR = "--ready-fd"  # is in its command line
ROOT = str(Path(jamboree_gym.__file__).parents[1])
# Takes the place of the package, so that one of its modules is imported without NumPy and the rest,
# as in the supervisor.
WITHOUT_THE_REST = f"""
import sys, types
package = types.ModuleType("jamboree_gym")
package.__path__ = [{str(Path(jamboree_gym.__file__).parent)!r}]
sys.modules["jamboree_gym"] = package
"""
# A run in the background of a shell ignores Ctrl-C, and its children inherit that. NumPy's threads
# make Python 3.12 warn of any fork.
PREAMBLE = """
import json, os, signal, sys, warnings
signal.signal(signal.SIGINT, signal.default_int_handler)
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from jamboree_gym.servers.embedded import *
home = sys.argv[1]
"""
JOIN_AND_WAIT = """
servers = EmbeddedServers.join(home)
status = servers.status()
print(json.dumps([status.supervisor_pid, status.redis_pid]), flush=True)
sys.stdin.read()
"""


@contextmanager
def new_home() -> Iterator[Path]:
    """A home that is not there yet; whatever served it is gone afterwards.

    Not below pytest's own directory: that one is private already, and too deep for some sockets.
    """
    parent = Path(tempfile.mkdtemp(prefix="jg-", dir=quick_disk()))
    parent.chmod(0o755)
    home = parent / "home"
    try:
        yield home
    finally:
        wait_until(lambda: not kill_all(home))  # a supervisor may have started one meanwhile
        shutil.rmtree(parent, ignore_errors=True)


class SeededMongo(MongoProgram):
    """One that has a document before it is ever asked for a password."""

    def _create_user(self, password: str) -> None:
        super()._create_user(password)
        with self._administrator() as client:
            client.test.before.insert_one({})


def use_before(home: Path, template_in: Path) -> Path:
    """Make a home whose Mongo has run before, with one document in `test.before`.

    Such a Mongo starts once, where a new one starts twice: first open, to be given its user.
    But whoever saves to such a home waits for it: it might have what Redis lost.

    Args:
        home: Where; not there yet.
        template_in: The base of pytest's temporary directories. The home that is copied is kept
            there, for all processes of the test run.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        template_in = template_in.parent
    template = template_in / "used-home"
    with FileLock(template_in / "used-home.lock"):
        if not template.exists():
            make_used_home(template)
    shutil.copytree(template, home)
    give_a_port_of_its_own(home)
    return home


def give_a_port_of_its_own(home: Path) -> None:
    """So that no two homes, copied from one, meet at their port when they start at once."""
    file = Home.at(home).mongo_file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"port": _free_port()}))


def make_used_home(template: Path) -> None:
    draft = Home.at(template.with_name("used-home-draft"))
    before = os.umask(0o077)  # as a supervisor's is
    try:
        draft.prepare()
        SeededMongo(draft).prepare(threading.Event())
    finally:
        os.umask(before)
    access = json.loads(draft.mongo_file.read_text())
    draft.mongo_file.write_text(json.dumps(access | {"user_created": True}))
    draft.mongo_unused.unlink()  # it holds a document
    draft.path.rename(template)


def shorten(
    monkeypatch: pytest.MonkeyPatch, directory: Path, process: str, module: str, **seconds: float
) -> None:
    """Change constants of a module in processes that servers are started with from here on.

    Args:
        monkeypatch: Undoes it.
        directory: An empty one; or that of an earlier change, which goes on to hold.
        process: Which processes: a part of their command line.
        module: Where the constants are.
        seconds: The constants.
    """
    light = f"exec({WITHOUT_THE_REST!r})" if process == SUPERVISOR else "pass"
    with (directory / "sitecustomize.py").open("a") as file:
        file.write(f"""
import importlib, sys
if {process!r} in sys.orig_argv:
    {light}
    vars(importlib.import_module({module!r})).update({seconds!r})
""")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(directory), ROOT]))


def kill_all(home: Path) -> list[psutil.Process]:
    """Kill whatever serves a home; those that were there."""
    found = processes_of(home)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return found


def processes_of(home: Path) -> list[psutil.Process]:
    """Supervisor and servers of a home, however they were left."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()  # empty for a zombie
        except psutil.Error:
            continue
        if "-c" not in command and any(str(home) in part for part in command):
            found.append(process)
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once something is so; fail if it never is."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def is_gone(pid: int | None) -> bool:
    """Whether a process has ended, reaped or not."""
    assert pid is not None
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(pid: int | None) -> None:
    """As `kill -9` does; returns once it is gone."""
    assert pid is not None
    os.kill(pid, 9)
    wait_until(lambda: is_gone(pid))


def restarted(servers: EmbeddedServers, *, redis: int = 0, mongo: int = 0) -> ServerStatus:
    """The status after so many restarts."""

    def done() -> bool:
        now = servers.status()
        ran = (now.redis_restarts, now.mongo_restarts) == (redis, mongo)
        return ran and now.redis_pid is not None and (not mongo or now.mongo_pid is not None)

    wait_until(done)
    return server_status(servers.status().home)


def start_client(
    home: Path,
    body: str = JOIN_AND_WAIT,
    *,
    prefix: Sequence[str] = (),
    whole_package: bool = False,
    **environment: str,
) -> subprocess.Popen[str]:
    """A process of its own that runs `body`, with the home's path in `home`."""
    program = ("" if whole_package else WITHOUT_THE_REST) + PREAMBLE + body
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", program, str(home)],
        env=os.environ | {"PYTHONPATH": ROOT} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_client(home: Path, body: str, *, prefix: Sequence[str] = (), **environment: str) -> str:
    """What a client printed, once it has ended."""
    with start_client(home, body, prefix=prefix, **environment) as client:
        return client.communicate(timeout=PATIENCE_S)[0].strip()


@contextmanager
def small_disk(directory: Path, *, size_kib: int) -> Iterator[Sequence[str]]:
    """A disk of that size, a full one if 0; yields the command that clients are to be run with.

    A real one where we may mount, else a limit to the size of files, which servers inherit.
    """
    directory.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={size_kib or 4}k,mode=700", "none", str(directory)]
    if os.geteuid() == 0 and subprocess.run(["mount", *options], check=False).returncode == 0:
        try:
            if size_kib == 0:
                (directory / "filler").write_bytes(b"x" * 4096)
            yield ()
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)
    else:
        limit = f'ulimit -f {size_kib}; exec "$@"'
        yield ("bash", "-c", limit, "limited")
