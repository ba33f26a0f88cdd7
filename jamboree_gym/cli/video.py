"""`video`: writes an episode into a video file."""

from __future__ import annotations

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
from jamboree_gym.replay import video as write_video

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_store_command(app, video, has_mongo_url=False)


def video(
    store: StoreOptions,
    episode_id: Annotated[str, typer.Argument(help="The episode.")],
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
) -> None:
    """Simulate a recorded episode again, and write it as an MP4 or GIF video.

    If the replay differs from what was recorded, nothing is written, and the exit code is 1.

    Example: jamboree-gym video 01a2107ee2eaf98d0cb9437033500000 out.mp4 --import jamboree_envs
    """
    with errors_shown():
        import_modules(modules)
        with store.open() as jam, progress_bar("rendering") as progress:
            written = write_video(
                jam.episode(episode_id),
                path,
                fps=fps,
                overwrite=overwrite,
                unverified=unverified,
                trust_entry_point=trust_entry_point,
                progress=progress,
            )
    if not written:
        typer.echo(printable(f"unverified: {written.report}"), err=True)
    typer.echo(printable(f"{path}: {written.frames:,} frames"))
