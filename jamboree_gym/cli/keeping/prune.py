"""`prune`: deletes episodes by their age, and keeps the best."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from jamboree_gym.cli.commands import (
    DryRunOption,
    EpisodeOptions,
    JsonOption,
    StoreOptions,
    YesOption,
    delete_confirmed,
)
from jamboree_gym.cli.output import print_json
from jamboree_gym.cli.typed_values import SECONDS, amount
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.wording import counted

__all__ = ["prune"]


def prune(
    store: StoreOptions,
    chosen: EpisodeOptions,
    older_than: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what began before: 30d, 12h ago.")
    ] = None,
    keep_best: Annotated[
        int,
        typer.Option(
            min=0, help="How many episodes of each run stay: those with the highest return."
        ),
    ] = 0,
    keep_last: Annotated[
        int, typer.Option(min=0, help="How many episodes of each run stay: those that began last.")
    ] = 0,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete episodes by age, from Redis and the backup. Keep the best and newest of each run.

    What is running stays, and so does what a fork that stays was made of. To free memory of Redis
    without a loss, use `backup retain` instead.

    Example: jamboree-gym prune --run ppo --older-than 30d --keep-best 10 --dry-run
    """
    age_s = amount("--older-than", older_than, SECONDS)
    if not (chosen.are_given or age_s is not None or keep_best or keep_last):
        raise InvalidArgument("say what goes: --older-than, --run, --where, or what stays")
    from jamboree_gym.reading.finding.filters import check_one_return
    from jamboree_gym.reading.finding.pruning import prunable
    from jamboree_gym.reading.query import found_by

    with store.open() as jam:
        query = chosen.query(jam)
        if age_s is not None:
            query = query.where(until=time.time() - age_s)
        _, stored = found_by(query, is_complete=False)
        if keep_best:
            check_one_return(stored, f"--keep-best {keep_best}")
        found = [one.decoded() for one in stored]
        every = jam.episodes(forks=True).summaries()
        going = prunable(found, every, keep_best=keep_best, keep_last=keep_last)
        done = delete_confirmed(jam, going, dry_run=dry_run, yes=yes)
    stay = len(found) - len(going)
    if json:
        ids, steps = [one.id for one in going], sum(one.steps for one in going)
        print_json({"episodes": ids, "steps": steps, "stay": stay, "deleted": not dry_run})
    else:
        typer.echo(f"{done}; {counted(stay, 'chosen episode')} stay{'s' if stay == 1 else ''}")
