"""`up`, `down`, `status`: the embedded servers of a home directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jamboree_gym.cli.commands import (
    HomeOption,
    JsonOption,
    StoreOptions,
    check_home,
)
from jamboree_gym.cli.output import as_plain, print_json, print_lines, print_text
from jamboree_gym.wording import mask_password

if TYPE_CHECKING:
    from jamboree_gym.backup import BackupStatus
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.runs.run_summary import RunSummary
    from jamboree_gym.servers.embedded import ServerStatus

__all__ = ["down", "status", "up"]


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

    Example: jamboree-gym up --stay --home servers
    """
    from jamboree_gym.servers.embedded import EmbeddedServers
    from jamboree_gym.store.urls import is_folder

    with EmbeddedServers.join(home, timeout_s=timeout_s) as servers:
        backup_url = servers.backup_url()
        if stay:
            servers.stay()
        typer.echo(f"redis  {servers.redis_url}")
        name = "folder" if is_folder(backup_url) else "mongo"
        typer.echo(f"{name:<6} {backup_url if show_password else mask_password(backup_url)}")


def down(
    home: HomeOption = None,
    timeout_s: Annotated[float, typer.Option(help="How long the stop may take.")] = 20.0,
) -> None:
    """Stop the embedded servers, even if processes use them. Their data stays.

    Example: jamboree-gym down --home servers
    """
    from jamboree_gym.servers.embedded import stop_servers

    check_home(home)
    typer.echo("stopped" if stop_servers(home, timeout_s=timeout_s) else "nothing was running")


def status(store: StoreOptions, json: JsonOption = False) -> None:
    """Show which runs are alive, how far the backup is, and which servers run. Starts nothing.

    With Sentinels or a cluster, it says which servers are the primaries now.

    Example: jamboree-gym status
    """
    servers = _servers(store)
    runs: Sequence[RunSummary] = ()
    backup: BackupStatus | None = None
    redis: str | None = None
    where, role = "", "primary"
    if servers is None or servers.running:
        with store.open() as jam:
            runs, backup = _alive(jam), jam.backup.status()
            redis, where = jam._connection.redis_store.address(), jam._connection.store.where
            role = "primaries" if jam._connection.redis_store.link.is_cluster else role
    if json:
        print_json(
            {
                "servers": servers,
                "redis": redis,
                "alive": [_run_as_plain(one) for one in runs],
                "steps_per_s": sum(one.steps_per_s for one in runs),
                "backup": backup,
            }
        )
        return
    if backup is not None:
        rate = sum(one.steps_per_s for one in runs)
        print_text(f"runs alive: {len(runs):,}, {rate:,.0f} steps/s")
        for run in runs:
            print_text(f"  {run}")
        print_lines(str(backup))
    if servers is None:
        print_text(f"redis: {redis}" + (f", the {role} of {where}" if where != redis else ""))
    else:
        print_lines("\n".join(_lines(servers)))


def _servers(store: StoreOptions) -> ServerStatus | None:
    """Of the home; None if the store is another server's."""
    from jamboree_gym.servers.embedded import server_status

    if not store.is_embedded:
        return None
    check_home(store.home)
    return server_status(store.home)


def _alive(jam: Jamboree) -> Sequence[RunSummary]:
    return [one for one in jam.runs().summaries() if one.state == "running"]


def _run_as_plain(run: RunSummary) -> dict[str, Any]:
    plain = as_plain(run)
    return {name: plain[name] for name in ("name", "steps", "steps_per_s", "last_step_at")}


def _lines(found: ServerStatus) -> Iterator[str]:
    yield f"embedded servers in {found.home}"
    yield f"supervisor      {_process(found.supervisor_pid)}"
    yield f"redis (valkey)  {_process(found.redis_pid, restarts=found.redis_restarts)}"
    yield f"mongo           {_process(found.mongo_pid, restarts=found.mongo_restarts)}"
    yield f"backup          {_process(found.backup_pid, restarts=found.backup_restarts)}"
    yield f"clients         {found.clients}"
    yield f"stops           {_stops(found)}"
    yield f"last error      {found.last_error or 'none'}"


def _process(pid: int | None, *, restarts: int = 0) -> str:
    if pid is None:
        return "not running"
    return f"pid {pid}" + (f", started again {restarts} times" if restarts else "")


def _stops(found: ServerStatus) -> str:
    if found.stays or found.idle_exit_s is None:
        return "when told to" if found.stays else "-"
    return f"{found.idle_exit_s:g} s after its last client"
