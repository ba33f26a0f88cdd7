"""All commands of `jamboree-gym`, in the order of `--help`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import typer

from jamboree_gym.cli.commands import NO, USAGE, add_command
from jamboree_gym.cli.keeping import backup
from jamboree_gym.cli.keeping.doctor import doctor
from jamboree_gym.cli.keeping.exchange import export, import_
from jamboree_gym.cli.keeping.migrate import migrate
from jamboree_gym.cli.keeping.prune import prune
from jamboree_gym.cli.keeping.retention import retain, trim
from jamboree_gym.cli.keeping.servers import down, status, up
from jamboree_gym.cli.looking.episodes import diff, find, ls, rm, show
from jamboree_gym.cli.looking.runs import run, runs
from jamboree_gym.cli.looking.tail import tail
from jamboree_gym.cli.looking.top import top
from jamboree_gym.cli.looking.ui import ui
from jamboree_gym.cli.playing.check import check
from jamboree_gym.cli.playing.fork import fork
from jamboree_gym.cli.playing.record import record, train
from jamboree_gym.cli.playing.replay import replay
from jamboree_gym.cli.playing.verify import verify
from jamboree_gym.cli.playing.video import video
from jamboree_gym.cli.playing.what_if import what_if

__all__ = ["add_all"]

Commands: TypeAlias = tuple[Callable[..., None], ...]

LOOKING: Final[Commands] = (runs, run, ls, show, find, diff, rm, tail, top, ui)
PLAYING: Final[Commands] = (record, train, check, replay, verify, fork, what_if, video)
KEEPING: Final[Commands] = (prune, export, import_, migrate, up, down, status, doctor)
OF_BACKUP: Final[Commands] = (
    *(backup.flush, backup.status, backup.verify, backup.restore, backup.copy),
    *(retain, trim),
)
CANNOT_TELL: Final[Commands] = (check, replay, verify, backup.verify)  # then not 1, which says "no"


def add_all(app: typer.Typer) -> None:
    """Add all commands."""
    group = typer.Typer(
        help="Copy to the backup, compare, restore, make room.", no_args_is_help=True
    )
    for to, commands in ((app, (*LOOKING, *PLAYING, *KEEPING)), (group, OF_BACKUP)):
        for command in commands:
            add_command(to, command, no=USAGE if command in CANNOT_TELL else NO)
    app.add_typer(group, name="backup")
