"""Makes a video of a joint episode: all agents are simulated again, compared, and rendered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jamboree_gym.checked import checked
from jamboree_gym.errors import ReplayError
from jamboree_gym.handlers.rendered_frames import RENDER_MODE
from jamboree_gym.multi_agent.joint_episode import JointEpisode
from jamboree_gym.multi_agent.rebuilding import put_generator_state
from jamboree_gym.multi_agent.recording.description import generator_state_of
from jamboree_gym.multi_agent.verification import compared, report_of
from jamboree_gym.progress import Progress, teller
from jamboree_gym.reading.part_folder import check_free
from jamboree_gym.replay.video import FrameWriter, Video
from jamboree_gym.replay.video_file import video_file

__all__ = ["video"]


@checked
def video(
    joint: JointEpisode,
    path: str | os.PathLike[str],
    *,
    fps: float | None = None,
    overwrite: bool = False,
    unverified: bool = False,
    make: Any = None,
    trust_entry_point: bool = False,
    progress: bool | Progress = False,
) -> Video:
    """Write a joint episode into a video file: a frame for its beginning, and one for each turn.

    All agents are simulated again as by `verify`, with `render_mode="rgb_array"`. If anything
    differs from the recording, no video is written, because it would show another episode.

    Example:
        >>> video(jam.joint_episode(id), "game.mp4")

    Args:
        joint: A joint episode that `verify` accepts, of an environment that renders arrays.
        path: A path that ends in `.mp4` (H.264) or `.gif`.
        fps: Frames per second; None = `render_fps` of the environment's metadata, else 30.
        overwrite: Whether an existing file is replaced, once the video is complete.
        unverified: Write the video even if the replay differs. The report says where it differs.
        make: As in `verify`; it makes the environment with `render_mode="rgb_array"`.
        trust_entry_point: As in `verify`, which explains the risk.
        progress: Whether to show on stderr how many frames are written; or a function that is
            called with that number and the total.

    Returns:
        The path, the number of frames, and the report of the replay; true if all was equal.

    Raises:
        MissingExtra: PyAV is not installed.
        ExportError: The file is there already; nothing was written.
        ReplayError: The replay differs; names the first difference. Or it cannot be replayed or
            rendered here, or the file cannot be written; says why.
    """
    check_free(Path(path), overwrite=overwrite)
    with video_file(Path(path)) as encoder:
        frames, told = len(joint.turns) + 1, teller(progress, "frames rendered")
        found = compared(
            joint,
            make,
            watch=FrameWriter(encoder, fps, frames, told, _rendered).add_frame,
            render_mode=RENDER_MODE,
            trust_entry_point=trust_entry_point,
        )
        found.run.env.close()
        if found.mismatch is not None and not unverified:
            raise ReplayError(
                f"no video: joint episode {joint.id} does not happen again: {found.difference}\n"
                "Its frames would show another one; unverified=True takes them all the same."
            )
    return Video(Path(path), encoder.frames, report_of(found))


def _rendered(env: Any) -> Any:
    """A rendered frame. If rendering uses the environment's generator, its state is restored."""
    state = generator_state_of(env)
    try:
        return env.render()
    finally:
        if state is not None:
            put_generator_state(env.unwrapped, state)
