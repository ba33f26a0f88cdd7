"""`video`: writes an episode, or one of a run, into a video file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jamboree_gym.cli.commands import (
    EnvArgumentsOption,
    JsonOption,
    ModulesOption,
    OverwriteOption,
    StoreOptions,
    TrustOption,
    WeightsOption,
    import_modules,
    progress_bar,
)
from jamboree_gym.cli.completion import complete_run_or_episode
from jamboree_gym.cli.episode_ids import named_episode
from jamboree_gym.cli.output import print_json, print_text, printable
from jamboree_gym.cli.playing.handed import MakeOption, handed_over
from jamboree_gym.cli.playing.joint import joint_of, video_of
from jamboree_gym.cli.typed_values import weights_of
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.wording import counted

if TYPE_CHECKING:
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.reading.episode import Episode

__all__ = ["video"]

SHOWN_OF_ID = 12


def video(
    store: StoreOptions,
    name: Annotated[
        str,
        typer.Argument(
            metavar="EPISODE|RUN",
            help="An episode, as `show` takes it; with one of the options below a run.",
            autocompletion=complete_run_or_episode,
        ),
    ],
    path: Annotated[
        Path | None,
        typer.Argument(help="Where to: out.mp4 or out.gif.", show_default="its id with .mp4"),
    ] = None,
    worst: Annotated[
        bool, typer.Option("--worst", help="Of the run: the episode with the lowest return.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Of the run: the episode with the highest return.")
    ] = False,
    last: Annotated[
        bool, typer.Option("--last", help="Of the run: the episode that began last.")
    ] = False,
    weights: WeightsOption = None,
    fps: Annotated[
        float | None,
        typer.Option(help="Frames per second.", show_default="the environment's, else 30"),
    ] = None,
    overwrite: OverwriteOption = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also of a replay that differs.")
    ] = False,
    modules: ModulesOption = None,
    arguments: EnvArgumentsOption = None,
    make: MakeOption = None,
    trust_entry_point: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Simulate a recorded episode again, and write it as an MP4 or GIF video.

    If the replay differs from what was recorded, nothing is written, and the exit code is 1. Of an
    episode with several agents, the video shows all of them, with a frame for each turn.

    Example: jamboree-gym video ppo out.mp4 --worst
    """
    if worst + best + last > 1:
        raise InvalidArgument("choose one of --worst, --best and --last")
    import_modules(modules)
    with store.open() as jam, progress_bar("rendering") as progress:
        order = "episode_return" if worst else "-episode_return" if best else ""
        found = _of_run(jam, name, order, weights) if order or last else named_episode(jam, name)
        joint = joint_of(jam, found)
        path = path or Path(f"{found.id[:SHOWN_OF_ID]}.mp4")
        options: dict[str, Any] = {
            "fps": fps,
            "overwrite": overwrite,
            "unverified": unverified,
            "progress": progress,
        }
        handed = {"trust_entry_point": trust_entry_point, **handed_over(make, arguments)}
        if joint is None:
            written = found.video(path, **options, **handed)
        else:
            written = video_of(joint, path, **options, handed=handed)
    if not written:
        typer.echo(printable(f"unverified: {written.report}", lines=True), err=True)
    if json:
        print_json({"path": path, "frames": written.frames, "verified": bool(written)})
    else:
        print_text(f"{path}: {counted(written.frames, 'frame')}")


def _of_run(jam: Jamboree, run: str, order: str, weights: str | None) -> Episode:
    """The first episode of a run in an order; without one the newest."""
    episodes = jam.episodes(run=run)
    if weights is not None:
        episodes = episodes.weighted(weights_of(weights))
    return episodes.order_by(order).first() if order else episodes.last()
