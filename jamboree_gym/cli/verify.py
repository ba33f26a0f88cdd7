"""`verify`: simulates episodes again and compares them, for people and for CI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jamboree_gym.cli.commands import (
    ModulesOption,
    StoreOptions,
    TrustOption,
    add_store_command,
    errors_shown,
    import_modules,
    printable,
    progress_bar,
)
from jamboree_gym.errors import ReplayError
from jamboree_gym.jamboree import Jamboree
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.query import EpisodeQuery
from jamboree_gym.replay import VerifyReports
from jamboree_gym.replay import verify as verify_episodes

__all__ = ["register"]

ALL_EQUAL, SOME_DIFFER, NOT_CHECKED = 0, 1, 2


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_store_command(app, verify, has_mongo_url=False)


def verify(
    store: StoreOptions,
    episode_ids: Annotated[
        list[str] | None, typer.Argument(metavar="EPISODE_ID", help="Only these episodes.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    env_id: Annotated[str | None, typer.Option(help="Only of this environment.")] = None,
    forks: Annotated[
        bool, typer.Option("--forks", help="Also forks of an episode of the same run.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N episodes.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only the newest N episodes.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    rtol: Annotated[float, typer.Option(min=0, help="Relative tolerance of floats.")] = 0.0,
    atol: Annotated[float, typer.Option(min=0, help="Absolute tolerance of floats.")] = 0.0,
    info: Annotated[
        list[str] | None, typer.Option(help="An info to compare too (a.b in a dict); repeatable.")
    ] = None,
    all_infos: Annotated[
        bool, typer.Option("--all-infos", help="Compare all infos that are recorded.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write all reports to this file.")] = None,
    modules: ModulesOption = None,
    trust_entry_point: TrustOption = False,
) -> None:
    """Simulate recorded episodes again and compare them, bit for bit.

    Exit code 0: all are equal. 1: some differ. 2: some could not be checked, or there are none.

    Example: jamboree-gym verify --run ppo --workers 4 --import my_envs --json out.json
    """
    if episode_ids and (run or env_id or limit or last):
        raise typer.BadParameter(
            "name episodes, or choose them by --run, --env-id, --limit, --last"
        )
    if limit and last:
        raise typer.BadParameter("choose one of --limit and --last")
    with errors_shown(NOT_CHECKED):
        import_modules(modules)
        with store.open() as jam, progress_bar("verifying") as progress:
            reports = verify_episodes(
                _chosen(jam, episode_ids, run, env_id, limit, last, forks=forks),
                workers=workers,
                rtol=rtol,
                atol=atol,
                infos=all_infos or info or False,
                trust_entry_point=trust_entry_point,
                progress=progress,
            )
        _show(reports, json)
    raise typer.Exit(_exit_code(reports))


def _chosen(
    jam: Jamboree,
    ids: Sequence[str] | None,
    run: str | None,
    env_id: str | None,
    limit: int | None,
    last: int | None,
    *,
    forks: bool,
) -> EpisodeQuery | list[Episode]:
    if ids:
        return [jam.episode(id) for id in ids]
    query = jam.episodes(run=run, env_id=env_id, limit=limit, forks=forks)
    return query if last is None else query[-last:]


def _show(reports: VerifyReports, path: Path | None) -> None:
    for report in reports.failed:
        typer.echo(printable(str(report)))
    if reports.unseen:
        typer.echo(f"no episode has these infos: {printable(', '.join(reports.unseen))}")
    typer.echo(reports.headline)
    if path is None:
        return
    try:
        reports.to_json(path)
    except OSError as error:
        raise ReplayError(f"--json {path} cannot be written: {error.strerror}") from error


def _exit_code(reports: VerifyReports) -> int:
    if any(report.mismatch is not None for report in reports):
        return SOME_DIFFER
    return ALL_EQUAL if reports else NOT_CHECKED
