"""What commands share: options, how errors are shown, and a progress bar."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from jamboree_gym.errors import InvalidArgument, JamboreeError, ReplayError
from jamboree_gym.jamboree import Jamboree
from jamboree_gym.progress import Progress
from jamboree_gym.servers.home import Home

__all__ = [
    "HomeOption",
    "ModulesOption",
    "StoreOptions",
    "TrustOption",
    "add_store_command",
    "check_home",
    "confirm",
    "errors_shown",
    "import_modules",
    "printable",
    "progress_bar",
]

_PANEL = "Store"
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
REDIS_URL_VARIABLE = "JAMBOREE_REDIS_URL"


def _store_option(help: str, envvar: str, default: str) -> Any:
    return typer.Option(help=help, envvar=envvar, show_default=default, rich_help_panel=_PANEL)


HomeOption = Annotated[
    Path | None, _store_option("Directory of the servers.", "JAMBOREE_HOME", "user data")
]
RedisUrlOption = Annotated[
    str | None, _store_option("redis://, rediss:// or unix://.", "JAMBOREE_REDIS_URL", "embedded")
]
MongoUrlOption = Annotated[
    str | None, _store_option("mongodb:// or mongodb+srv://.", "JAMBOREE_MONGO_URL", "embedded")
]
NamespaceOption = Annotated[
    str, typer.Option(help="Namespace of the project.", rich_help_panel=_PANEL)
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
        help="Import and call what the store names: whoever writes there runs code here.",
    ),
]
_STORE_OPTIONS: dict[str, tuple[Any, Any]] = {  # name -> annotation, default
    "home": (HomeOption, None),
    "redis_url": (RedisUrlOption, None),
    "mongo_url": (MongoUrlOption, None),
    "namespace": (NamespaceOption, "jamboree"),
}


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The store that a command's options choose."""

    home: Path | None
    redis_url: str | None
    namespace: str
    mongo_url: str | None = None

    def open(self) -> Jamboree:
        """Open the store.

        Raises:
            InvalidArgument: It is that of a home directory that is not there.
        """
        # Not every release of typer hands on a variable of the environment.
        if self.redis_url is None and REDIS_URL_VARIABLE not in os.environ:
            check_home(self.home)
        return Jamboree(self.redis_url, self.mongo_url, home=self.home, namespace=self.namespace)


def add_store_command(
    app: typer.Typer, command: Callable[..., None], *, has_mongo_url: bool = True
) -> None:
    """Add a command to `app`, with the options of a store in place of its parameter `store`.

    Args:
        app: The group of commands.
        command: The command; it takes its `StoreOptions` as `store`, and its own options by name.
        has_mongo_url: Whether `--mongo-url` is among the options.
    """
    names = [name for name in _STORE_OPTIONS if has_mongo_url or name != "mongo_url"]

    @wraps(command)
    def with_store(**values: Any) -> None:
        store = StoreOptions(**{name: values.pop(name) for name in names})
        command(store=store, **values)

    parameters = inspect.signature(command, eval_str=True).parameters.values()
    own = [one.replace(kind=_KEYWORD) for one in parameters if one.name != "store"]
    options = [_option(name, *_STORE_OPTIONS[name]) for name in names]
    with_store.__annotations__ = {one.name: one.annotation for one in [*own, *options]}
    with_store.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    app.command()(with_store)


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation)


def check_home(home: Path | None) -> None:
    """Refuse a home that is not there: a command that looks makes none, also in no other folder.

    Raises:
        InvalidArgument: It is not there.
    """
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
        raise InvalidArgument(f"{what}\nadd --yes to do it, or --dry-run to see what would happen")
    if not typer.confirm(f"{what}. Do it?"):
        typer.echo("nothing was changed")
        raise typer.Exit(1)


@contextmanager
def errors_shown(exit_code: int = 1) -> Iterator[None]:
    """Show our own errors as a message instead of a traceback."""
    try:
        yield
    except JamboreeError as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        raise typer.Exit(exit_code) from error


def printable(text: str) -> str:
    """Stored text without characters that would control the terminal."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )


@contextmanager
def progress_bar(doing: str) -> Iterator[Progress]:
    """A progress bar if stderr is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = doing, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def import_modules(modules: Sequence[str] | None) -> None:
    """Import modules that register environments.

    Raises:
        ReplayError: A module cannot be imported; says why.
    """
    if modules and "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: find modules in the working directory
    for name in modules or ():
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ReplayError(f"--import {name}: {type(error).__name__}: {error}") from error
