"""`verify`: simulates episodes again and compares them, for people and for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jamboree_gym.cli.commands import (
    NO,
    USAGE,
    EnvArgumentsOption,
    EpisodeOptions,
    JsonOption,
    ModulesOption,
    StoreOptions,
    TrustOption,
    import_modules,
    progress_bar,
)
from jamboree_gym.cli.episode_ids import EpisodesArgument, named_episodes
from jamboree_gym.cli.looking.episodes import why_none
from jamboree_gym.cli.output import print_lines, print_text
from jamboree_gym.cli.playing.handed import MakeOption, handed_over
from jamboree_gym.cli.playing.joint import parted, verified
from jamboree_gym.errors import InvalidArgument, ReplayError

if TYPE_CHECKING:
    from jamboree_gym.replay import VerifyReports

__all__ = ["verify"]

ALL_EQUAL, SOME_DIFFER, NOT_CHECKED = 0, NO, USAGE


def verify(
    store: StoreOptions,
    chosen: EpisodeOptions,
    episodes: EpisodesArgument = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    rtol: Annotated[float, typer.Option(min=0, help="Relative tolerance of floats.")] = 0.0,
    atol: Annotated[float, typer.Option(min=0, help="Absolute tolerance of floats.")] = 0.0,
    info: Annotated[
        list[str] | None, typer.Option(help="An info to compare too (a.b in a dict); repeatable.")
    ] = None,
    all_infos: Annotated[
        bool, typer.Option("--all-infos", help="Compare all infos that are recorded.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all reports to this JSON file.")
    ] = None,
    json: JsonOption = False,
    modules: ModulesOption = None,
    arguments: EnvArgumentsOption = None,
    make: MakeOption = None,
    trust_entry_point: TrustOption = False,
) -> None:
    """Simulate recorded episodes again and compare them, bit for bit.

    Of an episode with several agents, all of them are simulated together, with all their infos.

    Exit code 0: all are equal. 1: some differ. 2: some could not be checked, or there are none.

    Example: jamboree-gym verify --run ppo --workers 2 --last 4 -o verified.json
    """
    if episodes and chosen.are_given:
        raise InvalidArgument("name episodes, or choose them by options such as --run and --last")
    import_modules(modules)
    from jamboree_gym.replay import VerifyReports
    from jamboree_gym.replay import verify as verify_episodes

    with store.open() as jam, progress_bar("verifying") as progress:
        handed = {"trust_entry_point": trust_entry_point, **handed_over(make, arguments)}
        found = named_episodes(jam, episodes) if episodes else chosen.query(jam)
        alone, joint = parted(jam, found)
        reports = verify_episodes(
            alone,
            workers=workers,
            rtol=rtol,
            atol=atol,
            infos=False if joint and not alone else all_infos or info or False,
            **handed,
            progress=progress,
        )
        together: list[Any] = [verified(one, rtol=rtol, atol=atol, **handed) for one in joint]
        if together:
            reports = VerifyReports([*reports, *together], reports.unseen)
        why = None if len(reports) else why_none(jam, chosen)
    if output is not None:
        _write(reports, output)
    if json:
        print_lines(reports.to_json())
    else:
        _show(reports)
    if why is not None:
        typer.echo(why, err=True)
    raise typer.Exit(_exit_code(reports))


def _show(reports: VerifyReports) -> None:
    for report in reports.failed:
        print_lines(str(report))
    if reports.unseen:
        print_text(f"no episode has these infos: {', '.join(reports.unseen)}")
    print_text(reports.headline)


def _write(reports: VerifyReports, path: Path) -> None:
    try:
        reports.to_json(path)
    except OSError as error:
        raise ReplayError(f"-o {path} cannot be written: {error.strerror}") from error


def _exit_code(reports: VerifyReports) -> int:
    if any(report.mismatch is not None for report in reports):
        return SOME_DIFFER
    return ALL_EQUAL if reports else NOT_CHECKED
