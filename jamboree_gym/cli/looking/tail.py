"""`tail`: follows steps as they are recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from jamboree_gym.cli.commands import JsonOption, StoreOptions
from jamboree_gym.cli.completion import complete_run_or_episode
from jamboree_gym.cli.episode_ids import is_there, named_episode
from jamboree_gym.cli.looking.episodes import STEP_COLUMNS
from jamboree_gym.cli.output import as_plain, print_json, print_row, print_text
from jamboree_gym.cli.typed_values import SECONDS, amount, time_of

if TYPE_CHECKING:
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.reading.episode import Episode
    from jamboree_gym.records import StepData

__all__ = ["tail"]


def tail(
    store: StoreOptions,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|EPISODE]",
            help="Only this run or episode.",
            show_default="",
            autocompletion=complete_run_or_episode,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Also what has begun since: 90s, 2h, an ISO time."),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="End after so long without a step: 10s, 5m.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after N steps.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Follow steps as they are recorded, by any process: of a run, an episode, or everything.

    An episode is followed from its first step to its end. Ctrl-C ends it, with exit code 130.

    Example: jamboree-gym tail ppo --since 1h --steps 5
    """
    with store.open() as jam:
        from jamboree_gym.reading.finding.names import brief_id

        followed = _followed(jam, name, since, amount("--timeout", timeout, SECONDS))
        for episode, step in islice(followed, steps):
            if json:
                print_json({"episode": episode.id, **as_plain(step)})
            elif sys.stdout.isatty():
                print_text(f"{brief_id(episode.id)} {step!r}")
            else:
                print_row([episode.id, *(getattr(step, column) for column in STEP_COLUMNS)])


def _followed(
    jam: Jamboree, name: str | None, since: str | None, timeout_s: float | None
) -> Iterator[tuple[Episode, StepData]]:
    at = time_of("--since", since)
    if name is None:
        return jam.tail(since=at, timeout_s=timeout_s)
    if name in jam.runs():
        return jam.tail(run=name, since=at, timeout_s=timeout_s)
    episode = named_episode(jam, name)
    if not is_there(episode):
        return jam.tail(run=name, since=at, timeout_s=timeout_s)  # names the runs that there are
    return ((episode, step) for step in episode.tail(timeout_s=timeout_s))
