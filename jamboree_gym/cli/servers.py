"""`up`, `down`, `status`: the embedded servers of a home directory."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jamboree_gym.cli.commands import HomeOption, check_home, errors_shown
from jamboree_gym.servers.embedded import (
    EmbeddedServers,
    ServerStatus,
    mask_password,
    server_status,
    stop_servers,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    home: HomeOption = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Keep them running until `jamboree-gym down`.")
    ] = False,
    show_password: Annotated[
        bool, typer.Option("--show-password", help="Print the Mongo URL with its password.")
    ] = False,
    timeout_s: Annotated[float, typer.Option(help="How long the start may take.")] = 20.0,
) -> None:
    """Start both embedded servers and print their URLs.

    They stop after a minute without clients, unless you pass --stay.

    Example: jamboree-gym up --stay --home ./servers
    """
    with errors_shown(), EmbeddedServers.join(home, timeout_s=timeout_s) as servers:
        mongo_url = servers.mongo_url()
        if stay:
            servers.stay()
        typer.echo(f"redis  {servers.redis_url}")
        typer.echo(f"mongo  {mongo_url if show_password else mask_password(mongo_url)}")


def down(
    home: HomeOption = None,
    timeout_s: Annotated[float, typer.Option(help="How long the stop may take.")] = 20.0,
) -> None:
    """Stop the embedded servers, even if processes use them. Their data stays.

    Example: jamboree-gym down --home ./servers
    """
    with errors_shown():
        check_home(home)
        typer.echo("stopped" if stop_servers(home, timeout_s=timeout_s) else "nothing was running")


def status(home: HomeOption = None) -> None:
    """Show which servers run. Starts nothing.

    Example: jamboree-gym status --home ./servers
    """
    with errors_shown():
        check_home(home)
        Console().print(_table(server_status(home)))


def _table(found: ServerStatus) -> Table:
    table = Table(title=f"embedded servers in {found.home}", show_header=False)
    table.add_row("supervisor", _process(found.supervisor_pid))
    table.add_row("redis (valkey)", _process(found.redis_pid, restarts=found.redis_restarts))
    table.add_row("mongo", _process(found.mongo_pid, restarts=found.mongo_restarts))
    table.add_row("backup", _process(found.backup_pid, restarts=found.backup_restarts))
    table.add_row("clients", str(found.clients))
    table.add_row("stops", _stops(found))
    table.add_row("last error", found.last_error or "none")
    return table


def _process(pid: int | None, *, restarts: int = 0) -> str:
    if pid is None:
        return "not running"
    return f"pid {pid}" + (f", started again {restarts} times" if restarts else "")


def _stops(found: ServerStatus) -> str:
    if found.stays or found.idle_exit_s is None:
        return "when told to" if found.stays else "-"
    return f"{found.idle_exit_s:g} s after its last client"
