"""The command line: `jamboree-gym`. One module per group of commands; each parses, calls, shows.

The library is imported where a command runs, so that `--help` is quick.

Imports: `backup`, `connection`, `diagnosis`, `environment`, `errors`, `handlers`, `integrations`,
    `jamboree`, `multi_agent`, `progress`, `reading`, `records`, `replay`, `runs`, `servers`,
    `store`, `tables`, `wording`.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from jamboree_gym.errors import MissingExtra

if TYPE_CHECKING:
    import typer

__all__ = ["app", "main"]

NOT_COMPLETE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 130, 141, 143


def build_app() -> typer.Typer:
    """The typer app with all commands.

    Raises:
        MissingExtra: typer is not installed.
    """
    try:
        import typer

        from jamboree_gym.cli.command_list import add_all
        from jamboree_gym.cli.version import program
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        raise MissingExtra("the command line needs: pip install 'jamboree-gym[cli]'") from error
    built = typer.Typer(
        help="Every step of a Gymnasium environment, kept.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    built.callback()(program)
    add_all(built)
    return built


def __getattr__(name: str) -> typer.Typer:
    if name == "app":  # built on demand, so that this module can be imported without the extra
        return build_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command line; entry point of `jamboree-gym`."""
    # What is loaded stays until the end, where Python would look through all of it for garbage.
    gc.disable()  # a command enables it
    try:
        signal.signal(signal.SIGTERM, _terminate)
        _prepare_streams()
        app = build_app()
        from typer.main import get_command

        from jamboree_gym.cli.quick_parsing import quickened

        quickened(get_command(app))()
    except MissingExtra as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == BROKEN_PIPE:  # nobody waits for more: to free what was read takes a while
            os._exit(BROKEN_PIPE)
        raise
    except KeyboardInterrupt:  # while modules are loaded: typer hears it later
        os._exit(INTERRUPTED)
    except OSError as error:  # of what typer itself prints: `--help` into a closed stdout
        if error.errno not in (errno.EBADF, errno.ENOSPC):
            raise
        print(f"error: the output is not complete: {error.strerror}", file=sys.stderr)
        os._exit(NOT_COMPLETE)
    finally:
        gc.freeze()


def _terminate(number: int, frame: Any) -> None:
    """End as after Ctrl-C: what is recorded is delivered, and a terminal is as it was."""
    sys.exit(TERMINATED)


def _prepare_streams() -> None:
    """Give each stream a file, and escape what a terminal cannot show.

    A stream that the shell has closed (`>&-`) is None, and the next file or socket that is opened
    would get its number. Writing to stdout fails then, as it does in other programs.
    """
    modes = {"stdin": os.O_RDONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
    for name, mode in modes.items():
        stream = getattr(sys, name)
        if stream is None:
            place = os.open(os.devnull, mode)
            setattr(sys, name, os.fdopen(place, "r" if name == "stdin" else "w", closefd=False))
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
