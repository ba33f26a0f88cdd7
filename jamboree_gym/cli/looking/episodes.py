"""`ls`, `show`, `find`, `diff`, `rm`: the episodes of a store."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jamboree_gym.cli.commands import (
    NO,
    DryRunOption,
    EpisodeOptions,
    JsonOption,
    OverwriteOption,
    StoreOptions,
    YesOption,
    delete_confirmed,
)
from jamboree_gym.cli.completion import complete_episode
from jamboree_gym.cli.episode_ids import (
    EpisodeArgument,
    EpisodesArgument,
    named_episode,
    named_episodes,
)
from jamboree_gym.cli.output import print_json, print_lines, print_list, print_text
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.wording import counted

if TYPE_CHECKING:
    from jamboree_gym.reading.episode import Episode
    from jamboree_gym.records import EpisodeSummary, StepData

__all__ = ["EPISODE_COLUMNS", "STEP_COLUMNS", "diff", "find", "ls", "rm", "show"]

EPISODE_COLUMNS = ("id", "run", "env_id", "status", "steps", "episode_return", "started_at", "seed")
STEP_COLUMNS = ("index", "action", "reward", "terminated", "truncated", "timestamp")
_A_HELP = "An episode, as `show` takes it."
ON_A_TERMINAL = 20
SHOWN_STEPS = 3
_STEPS_PER_READ = 256
_CURVES = 8


def ls(store: StoreOptions, chosen: EpisodeOptions, json: JsonOption = False) -> None:
    """List episodes, the one that began first at the front.

    On a terminal the newest 20, unless --limit, --last, --worst or --best says how many.

    Example: jamboree-gym ls --run ppo --worst 5
    """
    with store.open() as jam:
        from jamboree_gym.reading.query import found_by

        _, found = found_by(chosen.query(jam), is_complete=False)
    if not found:
        why = "no episode is like that" if chosen.are_given else "nothing has been recorded yet"
        typer.echo(why, err=True)
    more = len(found) - ON_A_TERMINAL
    if more > 0 and sys.stdout.isatty() and not json and not chosen.are_counted:
        typer.echo(f"not shown: {counted(more, 'older episode')}; --last N shows more", err=True)
        found = found[-ON_A_TERMINAL:]
    print_list(
        found, json=json, columns=EPISODE_COLUMNS, table=_table, as_shown=lambda one: one.decoded()
    )


def show(
    store: StoreOptions,
    episode: EpisodeArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write one HTML file instead, which can be mailed."),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Show an episode: what it is, where it comes from, its rewards, first and last steps.

    The HTML file has curves and a table of the first 1,000 steps. It needs no network.

    Example: jamboree-gym show @last -o episode.html
    """
    if output is not None and json:
        raise InvalidArgument("choose one of -o and --json")
    with store.open() as jam:
        found = named_episode(jam, episode)
        if output is not None:
            from jamboree_gym.reading.episode_page import write_page

            write_page(found, output, overwrite=overwrite)
            print_text(f"{output}: {counted(found.summary.steps, 'step')}")
            return
        summary, provenance = found.summary, found.provenance
        rewards = _rewards(found)
        first = list(found.steps(0, SHOWN_STEPS))
        last = [one for one in found.recent(SHOWN_STEPS) if one.index >= len(first)]
    if json:
        steps = {"first_steps": first, "last_steps": last}
        print_json({"summary": summary, "provenance": provenance, "rewards": rewards, **steps})
        return
    from jamboree_gym.tables.text_table import ago, sparkline

    print_lines(str(summary))
    seed = "none" if summary.seed is None else summary.seed
    print_text(f"began {ago(summary.started_at, time.time())}, took {summary.elapsed_s:.3g} s")
    print_text(f"seed {seed}; tags {dict(summary.tags)}")
    for line in _origin(provenance):
        print_text(line)
    for name, curve in _reward_curves(rewards).items():
        finite = [one for one in curve if math.isfinite(one)]
        span = f"{min(finite):.4g} to {max(finite):.4g}" if finite else "no finite number"
        print_text(f"{name} {sparkline(curve)} {span}")
    for step in first:
        print_text(repr(step))
    if summary.steps > len(first) + len(last):
        typer.echo("...")
    for step in last:
        print_text(repr(step))


def find(
    store: StoreOptions,
    episode: EpisodeArgument,
    test: Annotated[
        str, typer.Argument(metavar="TEST", help="'reward < -1 and action == 2', over its columns.")
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N.", metavar="N")] = None,
    json: JsonOption = False,
) -> None:
    """Find the steps of an episode for which an expression is true. Exit code 1 if there is none.

    The columns are index, timestamp, reward, terminated, truncated, action, observation, info_NAME
    and annotation_NAME; a vector has action_0, action_1 and so on. The expression is not run as
    code.

    Example: jamboree-gym find @last 'reward > 0 and action == 1'
    """
    with store.open() as jam:
        found = named_episode(jam, episode)
        steps = list(_steps_at(found, found.find(test)[:limit].tolist()))
    print_list(steps, json=json, columns=STEP_COLUMNS, table=_step_table)
    if not steps:
        typer.echo("no step", err=True)
        raise typer.Exit(NO)


def diff(
    store: StoreOptions,
    a: Annotated[str, typer.Argument(metavar="A", help=_A_HELP, autocompletion=complete_episode)],
    b: Annotated[
        str, typer.Argument(metavar="B", help="Another one.", autocompletion=complete_episode)
    ],
    json: JsonOption = False,
) -> None:
    """Compare two episodes, bit for bit. Exit code 0: all steps are equal. 1: they differ.

    A fork is compared with all that came before it.

    Example: jamboree-gym diff @last~1 @last
    """
    with store.open() as jam:
        report = jam.diff(named_episode(jam, a), named_episode(jam, b))
    if json:
        divergence = report.divergence
        print_json({"equal": not report, "common_steps": report.common_steps,
                    "divergence": divergence, "a": report.a, "b": report.b})  # fmt: skip
    else:
        print_lines(str(report))
    if report:
        raise typer.Exit(NO)


def rm(
    store: StoreOptions,
    chosen: EpisodeOptions,
    episodes: EpisodesArgument = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete episodes from Redis and the backup: those named, or those chosen by options.

    Example: jamboree-gym rm --run ppo --where 'steps < 2' --dry-run
    """
    if bool(episodes) == chosen.are_given:
        raise InvalidArgument("name episodes, or choose them by options such as --run and --where")
    with store.open() as jam:
        if episodes:
            going = [one.summary for one in named_episodes(jam, episodes)]
        else:
            going = chosen.query(jam).summaries()
        done = delete_confirmed(jam, going, dry_run=dry_run, yes=yes)
    if json:
        ids, steps = [one.id for one in going], sum(one.steps for one in going)
        print_json({"episodes": ids, "steps": steps, "deleted": not dry_run})
    else:
        typer.echo(f"{done} for good" if dry_run else done)


# -- as text ------------------------------------------------------------------------------------


def _table(found: Sequence[EpisodeSummary]) -> Mapping[str, Sequence[object]]:
    from jamboree_gym.tables.text_table import episode_columns

    return episode_columns(found, time.time())


def _step_table(found: Sequence[StepData]) -> Mapping[str, Sequence[object]]:
    from jamboree_gym.records import brief

    return {
        "step": [one.index for one in found],
        "action": [brief(one.action) for one in found],
        "reward": [brief(one.reward) for one in found],
        "next observation": [brief(one.next_observation) for one in found],
        "info": [brief(one.info) for one in found],
    }


def _origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    """Where an episode comes from, in a few lines."""
    spec = provenance.get("env_spec") or {}
    if isinstance(spec, dict):
        yield f"environment {spec.get('id') or 'without a spec'} {provenance.get('env_kwargs')}"
    wrappers = provenance.get("wrappers") or []
    classes = [one.get("class") for one in wrappers if isinstance(one, dict)]
    yield f"wrappers {', '.join(str(one).rpartition('.')[2] for one in classes) or 'none'}"
    versions = provenance.get("versions") or {}
    if isinstance(versions, dict):
        yield ", ".join(f"{name} {version}" for name, version in versions.items())
    yield (
        f"on {provenance.get('host')}, {provenance.get('platform')}, process "
        f"{provenance.get('pid')}, commit {provenance.get('git_commit') or 'unknown'}"
    )


# -- reading in parts ---------------------------------------------------------------------------


def _reward_curves(rewards: Sequence[Any]) -> Mapping[str, Sequence[float]]:
    """The rewards by what they are called; those of several numbers, each by itself."""
    import numpy as np

    if not rewards or isinstance(rewards[0], float):
        return {"rewards": rewards} if rewards else {}
    columns = np.asarray(rewards, np.float64).reshape(len(rewards), -1).T.tolist()
    return {f"reward {n}": column for n, column in enumerate(columns[:_CURVES])}


def _rewards(episode: Episode) -> list[Any]:
    """All its rewards, without more than some hundred observations in memory."""
    rewards: list[Any] = []
    while len(part := episode.steps(len(rewards), len(rewards) + _STEPS_PER_READ)):
        rewards += part.rewards.tolist()
    return rewards


def _steps_at(episode: Episode, indices: Sequence[int]) -> Iterator[StepData]:
    """The steps with these indices, which ascend."""
    wanted = set(indices)
    for start in sorted({index - index % _STEPS_PER_READ for index in indices}):
        steps = episode.steps(start, start + _STEPS_PER_READ)
        yield from (step for step in steps if step.index in wanted)
