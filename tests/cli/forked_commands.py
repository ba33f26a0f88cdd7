"""Many commands, each a process of its own, forked from one that has imported the package.

    run_forked([["ls"], ["runs"]], "reader-gone", environment)

An interpreter for each would take half a second a command.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from warm import run_warm

READER_GONE, CTRL_C = "reader-gone", "ctrl-c"

PROGRAM = """
import json
import os
import signal
import sys
import tempfile

import gymnasium
import jamboree_gym.backup
import jamboree_gym.diagnosis
import jamboree_gym.replay
import jamboree_gym.tables.text_table
import pymongo.monitor
from jamboree_gym import Jamboree, cli

cli.build_app()  # what is imported here, no child has to import
commands, how = json.loads(sys.argv[1]), sys.argv[2]


def with_ctrl_c(method):
    def called(*args, **options):
        made = method(*args, **options)
        signal.raise_signal(signal.SIGINT)
        return made
    return called


def become(arguments, said):
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing if how == "reader-gone" else os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    if how == "ctrl-c":  # as soon as the command has its store
        Jamboree.__init__ = with_ctrl_c(Jamboree.__init__)
    sys.argv = ["jamboree-gym", *arguments]
    cli.main()


def run_one(arguments):
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            become(arguments, said.fileno())  # its end is that of the interpreter
            sys.exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        return [code, said.read().decode()]


found = []
for arguments in commands:
    found.append(run_one(arguments))
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code.
        stderr: What it wrote there.
    """

    code: int
    stderr: str


def run_forked(
    commands: Sequence[Sequence[str]], how: str, environment: dict[str, str]
) -> list[Ended]:
    """Run each of these commands in turn.

    Args:
        commands: Their arguments.
        how: READER_GONE: nobody reads its stdout. CTRL_C: it is interrupted when it has opened its
            store.
        environment: Variables of the environment.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        done = run_warm(PROGRAM, json.dumps([list(one) for one in commands]), how)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return [Ended(*one) for one in found]
