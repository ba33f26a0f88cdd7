"""What commands share: options, exit codes, questions, and a progress bar.

Nothing here or at the top of a module of commands imports the library: `--help` has to be quick.
"""

from __future__ import annotations

import errno
import gc
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import wraps
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from jamboree_gym.cli.completion import complete_run
from jamboree_gym.cli.output import printable
from jamboree_gym.cli.typed_values import tag_test, time_of, weights_of
from jamboree_gym.errors import (
    EmbeddedServerError,
    EpisodeNotFound,
    InvalidArgument,
    InvalidExpression,
    InvalidUrl,
    JamboreeError,
    MissingExtra,
    RunNotFound,
    StoreFull,
    StoreUnavailable,
    UnsavedRecords,
    UnsupportedServer,
)
from jamboree_gym.wording import counted

if TYPE_CHECKING:
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.progress import Progress
    from jamboree_gym.reading.query import EpisodeQuery
    from jamboree_gym.records import EpisodeSummary

__all__ = [
    "AnyEnvArgument",
    "DryRunOption",
    "EnvArgument",
    "EnvArgumentsOption",
    "EpisodeOptions",
    "HomeOption",
    "JsonOption",
    "ModulesOption",
    "NO",
    "OverwriteOption",
    "StoreOptions",
    "TagsOption",
    "TrustOption",
    "USAGE",
    "WeightsOption",
    "YesOption",
    "add_command",
    "check_home",
    "confirm",
    "delete_confirmed",
    "import_modules",
    "imported",
    "progress_bar",
]

NO, USAGE, AWAY, BROKEN_PIPE = 1, 2, 3, 141  # typer ends with 130 after Ctrl-C
_AWAY = (StoreUnavailable, StoreFull, EmbeddedServerError, UnsavedRecords)
_NO_OUTPUT = (errno.ENOSPC, errno.EBADF, errno.EIO)  # full, closed, or its terminal has gone
_USAGE = (InvalidArgument, InvalidExpression, InvalidUrl, MissingExtra, UnsupportedServer)

REDIS_URL_VARIABLE = "JAMBOREE_REDIS_URL"

# -- options ------------------------------------------------------------------------------------


def _store_option(help: str, envvar: str, default: str, *names: str) -> Any:
    return typer.Option(*names, help=help, envvar=envvar, show_default=default)


def _episode_option(help: str, *names: str, **options: Any) -> Any:
    return typer.Option(*names, help=help, **options)


HomeOption = Annotated[
    Path | None, _store_option("Directory of the servers.", "JAMBOREE_HOME", "user data")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing, show what would happen.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file if it is there.")
]
TagsOption = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="NAME=VALUE", help="A tag of all episodes; repeatable."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        metavar="W,W",
        help="Where a reward is several numbers: the weight of each in the return, 0.7,0.3.",
    ),
]
_GYMNASIUM_ID = "Its Gymnasium id; module:id imports the module first."
EnvArgument = Annotated[str, typer.Argument(metavar="ENV", help=_GYMNASIUM_ID)]
AnyEnvArgument = Annotated[
    str,
    typer.Argument(
        metavar="ENV",
        help=f"{_GYMNASIUM_ID} Of PettingZoo: aec:classic/tictactoe-v3 or parallel:ID.",
    ),
]
EnvArgumentsOption = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="NAME=VALUE", help="An argument of the environment; repeatable."),
]
ModulesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import", help="A module to import first, as it registers environments; repeatable."
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-entry-point",
        help="Import and call what the store names. Who can write to it can then run code here.",
    ),
]


@contextmanager
def _loading() -> Iterator[None]:
    """Load modules, which stay until the end: no collection of garbage looks through them."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The store that a command's options choose."""

    home: HomeOption = None
    redis_url: Annotated[
        str | None,
        _store_option(
            "redis://, rediss://, redis+sentinel://, redis+cluster:// or unix://.",
            REDIS_URL_VARIABLE,
            "embedded",
        ),
    ] = None
    backup_url: Annotated[
        str | None,
        _store_option(
            "mongodb://, mongodb+srv:// or file:///folder.",
            "JAMBOREE_BACKUP_URL",
            "embedded",
            "--backup-url",
            "--mongo-url",
        ),
    ] = None
    namespace: Annotated[str, typer.Option(help="Namespace of the project.")] = "jamboree"

    def __post_init__(self) -> None:
        # Not every pair of releases of typer and click hands on a variable of the environment.
        if self.redis_url is None:
            object.__setattr__(self, "redis_url", os.environ.get(REDIS_URL_VARIABLE) or None)

    @property
    def is_embedded(self) -> bool:
        """Whether it is that of a home directory."""
        return self.redis_url is None and REDIS_URL_VARIABLE not in os.environ  # empty: an error

    def open(self, *, is_new: bool = False) -> Jamboree:
        """Open the store.

        Args:
            is_new: Whether a home directory that is not there is made.

        Raises:
            InvalidArgument: It is that of a home directory that is not there.
        """
        with _loading():
            from jamboree_gym.jamboree import Jamboree

        if self.is_embedded and not is_new:
            check_home(self.home)
        return Jamboree(self.redis_url, self.backup_url, home=self.home, namespace=self.namespace)


@dataclass(frozen=True, slots=True)
class EpisodeOptions:
    """The episodes that a command's options choose; as in `jam.episodes(...)`."""

    run: Annotated[
        list[str] | None,
        _episode_option("Only of this run; repeatable.", autocompletion=complete_run),
    ] = None
    env: Annotated[
        str | None, _episode_option("Only of this environment.", "--env", "--env-id")
    ] = None
    status: Annotated[
        str | None,
        _episode_option("Only running, terminated, truncated, abandoned or interrupted."),
    ] = None
    tag: Annotated[
        list[str] | None,
        _episode_option("Only with this tag; repeatable.", metavar="NAME=VALUE"),
    ] = None
    since: Annotated[
        str | None,
        _episode_option("Begun since: 90s, 2h, 3d ago, an ISO time.", metavar="TIME"),
    ] = None
    until: Annotated[str | None, _episode_option("Begun until then.", metavar="TIME")] = None
    where: Annotated[
        str | None,
        _episode_option("Only if true: 'episode_return < -300 and steps > 9'.", metavar="TEST"),
    ] = None
    forks: Annotated[
        bool, _episode_option("Also forks of an episode of the same run.", "--forks")
    ] = False
    limit: Annotated[int | None, _episode_option("Only the first N.", min=1, metavar="N")] = None
    last: Annotated[int | None, _episode_option("Only the newest N.", min=1, metavar="N")] = None
    worst: Annotated[
        int | None,
        _episode_option("Only N, the lowest return first.", min=1, metavar="N"),
    ] = None
    best: Annotated[
        int | None,
        _episode_option("Only N, the highest return first.", min=1, metavar="N"),
    ] = None
    weights: WeightsOption = None

    @property
    def are_given(self) -> bool:
        """Whether any of them chooses episodes; `--forks` only adds some to those."""
        given = (getattr(self, one.name) for one in fields(self) if one.name != "forks")
        return any(one not in (None, []) for one in given)

    @property
    def are_whole_runs(self) -> bool:
        """Whether they choose runs, and nothing else among their episodes."""
        return bool(self.run) and not replace(self, run=None).are_given

    @property
    def are_counted(self) -> bool:
        """Whether they say how many episodes."""
        return bool(self.limit or self.last or self.worst or self.best)

    def _check_texts(self) -> None:
        for one in fields(self):
            given = getattr(self, one.name)
            if given == "" or (isinstance(given, list) and "" in given):
                raise InvalidArgument(f"--{one.name} is empty: say which, or leave it out")

    def query(self, jam: Jamboree) -> EpisodeQuery:
        """The episodes.

        Raises:
            InvalidArgument: An option cannot be understood, or two of them contradict each other.
        """
        self._check_texts()
        if sum(one is not None for one in (self.limit, self.last, self.worst, self.best)) > 1:
            raise InvalidArgument("choose one of --limit, --last, --worst and --best")
        query = jam.episodes(
            run=self.run or None,
            env_id=self.env,
            status=self.status,
            tags=dict(map(tag_test, self.tag or ())),
            since=time_of("--since", self.since),
            forks=self.forks,
        )
        if self.weights is not None:
            query = query.weighted(weights_of(self.weights))
        query = query.where(self.where, until=time_of("--until", self.until))
        if self.last:
            return query[-self.last :]
        if self.worst or self.best:
            order = "episode_return" if self.worst else "-episode_return"
            return query.order_by(order)[: self.worst or self.best]
        return query[: self.limit] if self.limit else query


# -- commands -----------------------------------------------------------------------------------


def add_command(app: typer.Typer, command: Callable[..., None], *, no: int = NO) -> None:
    """Add a command. A parameter that is `StoreOptions` or `EpisodeOptions` is their options.

    Args:
        app: The group of commands.
        command: The command. Its name is that of the function, and its own options have names.
        no: Exit code where something is not there, damaged or cannot be done.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    grouped: list[inspect.Parameter] = []
    for one in inspect.signature(command, eval_str=True).parameters.values():
        if one.annotation in (StoreOptions, EpisodeOptions):
            groups[one.name] = one.annotation
            grouped += _options_of(one.annotation)
        else:
            parameters.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**values: Any) -> None:
        gc.enable()
        for group, options in groups.items():
            names = [one.name for one in fields(options)]
            values[group] = options(**{name: values.pop(name) for name in names})
        with _exit_codes(no, options=[one.name for one in parameters]):
            command(**values)

    parameters += grouped
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(command.__name__.rstrip("_").replace("_", "-"))(run)


def _options_of(group: type[Any]) -> list[inspect.Parameter]:
    kinds = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=one.default,
            annotation=kinds[one.name],
        )
        for one in fields(group)
    ]


@contextmanager
def _exit_codes(no: int, *, options: Sequence[str]) -> Iterator[None]:
    """Show our own errors as a message instead of a traceback, and end with their exit code."""
    try:
        yield
    except BrokenPipeError as error:
        _hear_no_more()
        raise typer.Exit(BROKEN_PIPE) from error
    except OSError as error:
        if error.errno not in _NO_OUTPUT:
            raise
        typer.echo(f"error: the output is not complete: {error.strerror}", err=True)
        _hear_no_more()
        raise typer.Exit(no) from error
    except JamboreeError as error:
        typer.echo(f"error: {_worded(str(error), options)}", err=True)
        raise typer.Exit(_exit_code_of(error, no)) from error


def _worded(text: str, options: Sequence[str]) -> str:
    """An error of the library in the words of a shell: `--overwrite` for `overwrite=True`."""
    for name in options:
        option = f"--{name.replace('_', '-')}"
        text = re.sub(rf"\b{name}=True\b", option, text)
        text = re.sub(rf"^{name}=", f"{option} ", text)
    return printable(text, lines=True)


def _exit_code_of(error: JamboreeError, no: int) -> int:
    if isinstance(error, _AWAY):
        return AWAY
    return USAGE if isinstance(error, _USAGE) else no


def _hear_no_more() -> None:
    """Nobody can read our output any more: what Python still writes at its end goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


# -- what several commands do -------------------------------------------------------------------


def check_home(home: Path | None) -> None:
    """Refuse a home that is not there: a command that looks makes none, also in no other folder.

    Raises:
        InvalidArgument: It is not there.
    """
    from jamboree_gym.servers.home import Home

    found = Home.at(home)
    if not found.data_dir("valkey").is_dir():
        raise InvalidArgument(
            f"no home at {found.path}: nothing has been recorded there\n"
            "--home or JAMBOREE_HOME names another one, --redis-url a server"
        )


def confirm(what: str, *, yes: bool) -> None:
    """Ask before something is lost.

    Raises:
        InvalidArgument: There is nobody to ask.
        typer.Exit: The answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidArgument(
            f"this would {what}, and there is nobody to ask\n"
            "add --yes to do it, or --dry-run to see what would happen"
        )
    typer.echo(f"{printable(what)}. Do it? [y/N]: ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(NO)


def delete_confirmed(
    jam: Jamboree,
    going: Sequence[EpisodeSummary],
    runs: Sequence[str] = (),
    *,
    dry_run: bool,
    yes: bool,
) -> str:
    """Ask, and delete these episodes and what else these runs have; say what was done.

    Raises:
        InvalidArgument, typer.Exit: As `confirm`.
        EpisodeInUse: One of the runs runs again by now.
    """
    steps = sum(one.steps for one in going)
    amount = f"{counted(len(going), 'episode')} with {counted(steps, 'step')}"
    if runs:
        amount += f" and the run{'s' if len(runs) > 1 else ''} {', '.join(runs)}"
    if dry_run:
        return f"would delete {amount}"
    if going or runs:
        confirm(f"delete {amount} for good", yes=yes)
        with progress_bar("deleting") as progress:
            for number, one in enumerate(going, 1):
                with suppress(EpisodeNotFound):  # another process has just deleted it
                    jam.episode(one.id).delete()
                progress(number, len(going))
        for name in runs:
            with suppress(RunNotFound):  # it was listed because of its episodes alone
                jam.run(name).delete()
    return f"{amount} deleted"


@contextmanager
def progress_bar(doing: str) -> Iterator[Progress]:
    """A progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = doing, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def import_modules(modules: Sequence[str] | None) -> None:
    """Import modules that register environments.

    Raises:
        InvalidArgument: A module cannot be imported; says why.
    """
    for name in modules or ():
        imported("--import", name)


def imported(option: str, name: str) -> Any:
    """The module `name`, or what is in it under `path` of `name:path`.

    Raises:
        InvalidArgument: It cannot be imported; says why.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: find modules in the working directory
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        return attrgetter(path)(found) if path else found
    except (Exception, SystemExit) as error:  # a script that ends itself
        raise InvalidArgument(f"{option} {name}: {type(error).__name__}: {error}") from error
