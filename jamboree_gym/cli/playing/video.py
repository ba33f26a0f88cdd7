"""`video`: writes an episode into a video file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jamboree_gym.cli.commands import (
    JsonOption,
    ModulesOption,
    StoreOptions,
    TrustOption,
    add_command,
    import_modules,
    progress_bar,
)
from jamboree_gym.cli.episode_ids import EpisodeArgument, named_episode
from jamboree_gym.cli.output import print_json, print_text, printable
from jamboree_gym.wording import counted

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, video)


def video(
    store: StoreOptions,
    episode: EpisodeArgument,
    path: Annotated[Path, typer.Argument(help="Where to: out.mp4 or out.gif.")],
    fps: Annotated[
        float | None,
        typer.Option(help="Frames per second.", show_default="the environment's, else 30"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file if it is there.")
    ] = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Also of a replay that differs.")
    ] = False,
    modules: ModulesOption = None,
    trust_entry_point: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Simulate a recorded episode again, and write it as an MP4 or GIF video.

    If the replay differs from what was recorded, nothing is written, and the exit code is 1.

    Example: jamboree-gym video @last out.mp4
    """
    import_modules(modules)
    with store.open() as jam, progress_bar("rendering") as progress:
        written = named_episode(jam, episode).video(
            path,
            fps=fps,
            overwrite=overwrite,
            unverified=unverified,
            trust_entry_point=trust_entry_point,
            progress=progress,
        )
    if not written:
        typer.echo(printable(f"unverified: {written.report}", lines=True), err=True)
    if json:
        print_json({"path": path, "frames": written.frames, "verified": bool(written)})
    else:
        print_text(f"{path}: {counted(written.frames, 'frame')}")
