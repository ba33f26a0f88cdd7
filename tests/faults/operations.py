"""Operations: what a process asked for and what came back, in a file that outlives the process.

An operation has two lines: one before the call, one after it. A line is handed to the kernel at
once, so `kill -9` loses none. An operation without a second line may have happened or not. All
processes of a machine use one clock (`time.monotonic`), so their times can be compared.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["Call", "Operation", "OperationLog", "read_operations"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a process.

    Attributes:
        process: Its name; a process that is started again has another one.
        action: What was done, such as `step` or `read`.
        what: To what: an episode's id, the name of a log, a server, another process; or nothing.
        start: Before the call, seconds.
        end: After it; infinity if it never returned.
        asked: What else was asked for.
        result: What came back.
        error: Name of the class of the error that was raised; empty if none was.
        cause: Name of the class of the error that caused it.
        words: Those of the error.
    """

    process: str
    action: str
    what: str = ""
    start: float = 0.0
    end: float = math.inf
    asked: Any = None
    result: Any = None
    error: str = ""
    cause: str = ""
    words: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether it returned without an error."""
        return self.end < math.inf and not self.error


class Call:
    """What is going on between the two lines.

    Attributes:
        result: What the second line will say.
    """

    result: Any = None


class OperationLog:
    """Writes the operations of this process.

    Args:
        path: A new file; its name is that of the process.
        expected: Errors that an operation may end with. They are noted, and not raised again.
    """

    def __init__(self, path: Path, expected: type[Exception]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._expected = expected
        self._count = 0

    @contextmanager
    def call(self, action: str, what: str = "", asked: Any = None) -> Iterator[Call]:
        """Note an operation around the call that is made inside."""
        call, number = Call(), self._count
        self._count += 1
        self._write("call", number, action, what, asked)
        try:
            yield call
        except self._expected as error:
            cause = "" if error.__cause__ is None else type(error.__cause__).__name__
            words = [type(error).__name__, cause, str(error)[:300]]
            self._write("return", number, call.result, *words)
        else:
            self._write("return", number, call.result, "", "", "")

    def note(self, action: str, what: str, result: Any, asked: Any = None) -> None:
        """Note what was given to this process without a call of its own."""
        with self.call(action, what, asked) as call:
            call.result = result

    def _write(self, kind: str, number: int, *rest: Any) -> None:
        line = json.dumps([kind, number, time.monotonic(), *rest], separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")


def read_operations(path: Path) -> list[Operation]:
    """What one process has written, in the order of the calls."""
    operations: dict[int, Operation] = {}
    for line in path.read_text().splitlines():
        kind, number, at, *rest = json.loads(line)
        if kind == "call":
            action, what, asked = rest
            operations[number] = Operation(path.stem, action, what, start=at, asked=asked)
        else:
            result, error, cause, words = rest
            operations[number] = replace(
                operations[number], end=at, result=result, error=error, cause=cause, words=words
            )
    return list(operations.values())
