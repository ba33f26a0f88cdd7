"""`ls`, `show`, `find`, `diff`, `rm`: the episodes of a store."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
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
from jamboree_gym.cli.output import print_json, print_lines, print_list, print_text, printable
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.wording import counted, did_you_mean, one_line

if TYPE_CHECKING:
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.reading.episode import Episode
    from jamboree_gym.records import EpisodeSummary, StepData

__all__ = ["EPISODE_COLUMNS", "STEP_COLUMNS", "diff", "find", "ls", "rm", "show", "why_none"]

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
        from jamboree_gym.reading.finding.names import short_ids
        from jamboree_gym.reading.query import found_by

        _, found = found_by(chosen.query(jam), is_complete=False)
        why = None if found else why_none(jam, chosen)
        is_shown = sys.stdout.isatty() and not json
        more = len(found) - ON_A_TERMINAL
        if more > 0 and is_shown and not chosen.are_counted:
            older = counted(more, "older episode")
            typer.echo(f"not shown: {older}; --last N shows more", err=True)
            found = found[-ON_A_TERMINAL:]
        names = short_ids(jam._connection, [one.id for one in found]) if is_shown else {}
    if why is not None:
        typer.echo(why, err=True)
    print_list(
        found,
        json=json,
        columns=EPISODE_COLUMNS,
        table=partial(_table, names=names),
        as_shown=lambda one: one.decoded(),
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
    and annotation_NAME; a vector has action_0, action_1 and so on, a dict action_KEY. The
    expression is not run as code.

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
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="With --run alone: its checkpoints, too.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Delete episodes from Redis and the backup: those named, or those chosen by options.

    With --run alone, the run itself goes: its forks, sessions and metrics, too. It stays, with
    them, while it has checkpoints or is running.

    Example: jamboree-gym rm --run ppo --where 'steps < 2' --dry-run
    """
    if bool(episodes) == chosen.are_given:
        raise InvalidArgument("name episodes, or choose them by options such as --run and --where")
    if checkpoints and not chosen.are_whole_runs:
        raise InvalidArgument("--checkpoints deletes a run whole: give --run, and nothing else")
    with store.open() as jam:
        if episodes:
            going = [one.summary for one in named_episodes(jam, episodes)]
        else:
            going = chosen.query(jam).summaries()
        runs: list[str] = []
        if chosen.are_whole_runs:
            runs = list(_runs_that_go(jam, chosen.run or (), checkpoints=checkpoints))
            going = jam.episodes(run=chosen.run, forks=True).summaries()
        done = delete_confirmed(jam, going, runs, dry_run=dry_run, yes=yes)
    if json:
        ids, steps = [one.id for one in going], sum(one.steps for one in going)
        print_json({"episodes": ids, "steps": steps, "runs": runs, "deleted": not dry_run})
    else:
        print_text(f"{done} for good" if dry_run else done)


def _runs_that_go(jam: Jamboree, names: Sequence[str], *, checkpoints: bool) -> Iterator[str]:
    """Of some runs those that can be deleted whole; says of the others why they stay."""
    for name in dict.fromkeys(names):
        summary = jam.run(name).summary
        shown = one_line(name)
        if summary.state == "running":
            typer.echo(f"run {shown} stays: it is running", err=True)
        elif summary.checkpoints and not checkpoints:
            kept = counted(summary.checkpoints, "checkpoint")
            typer.echo(
                f"run {shown} stays: it has {kept}; --checkpoints deletes it whole", err=True
            )
        else:
            yield name


def why_none(jam: Jamboree, chosen: EpisodeOptions) -> str:
    """Why no episode is like that; names the nearest environment or tag, if one is misspelt."""
    if not chosen.are_given:
        return "nothing has been recorded yet"
    found = jam.runs().summaries()
    known = sorted({id for one in found for id in one.env_ids})
    if chosen.env is not None and chosen.env not in known:
        there = f"; there are {', '.join(known)}" if known else ""
        return printable(f"no episode of {chosen.env}{did_you_mean(chosen.env, known)}{there}")
    tags = {tag for one in found for tag in one.tags}
    for name in (text.partition("=")[0] for text in chosen.tag or ()):
        if name not in tags:
            return printable(f"no episode has this tag {name}{did_you_mean(name, tags)}")
    return "no episode is like that"


# -- as text ------------------------------------------------------------------------------------


def _table(
    found: Sequence[EpisodeSummary], names: Mapping[str, str]
) -> Mapping[str, Sequence[object]]:
    """What is shown on a terminal; ids as short as they can be typed."""
    from jamboree_gym.tables.text_table import episode_columns

    columns = episode_columns(found, time.time())
    return {**columns, "episode": [names.get(one.id, one.id) for one in found]}


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
