"""Long results on a terminal go through a pager; nothing else does."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys

__all__ = ["is_paged"]

VARIABLE = "PAGER"
USUAL = "less"
NONE = ("", "cat")
# less: end at once if it fits, show colours, leave the text on the screen.
LESS_OPTIONS = "FRX"


def is_paged(text: str) -> bool:
    """Show a text in the pager of the user, if it is too long for the terminal.

    Returns:
        Whether it was shown. If not, there is no terminal, no pager, or no need for one: print it.
    """
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        return False
    if text.count("\n") + 2 < shutil.get_terminal_size().lines:
        return False
    command = shlex.split(os.environ.get(VARIABLE, USUAL))
    if not command or command[0] in NONE or shutil.which(command[0]) is None:
        return False
    environment = {"LESS": LESS_OPTIONS, **os.environ}
    try:
        pager = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            env=environment,
        )
    except OSError:
        return False
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pager
    try:
        pager.communicate(text + "\n")
    finally:
        signal.signal(signal.SIGINT, before)
    return True
