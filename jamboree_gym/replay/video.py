"""Makes a video of an episode: simulates it again, compares each step, and renders it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jamboree_gym.checked import checked
from jamboree_gym.errors import ReplayError
from jamboree_gym.handlers.rendered_frames import RENDER_MODE, rendered
from jamboree_gym.progress import Progress, teller
from jamboree_gym.reading.episode import Episode
from jamboree_gym.reading.part_folder import check_free
from jamboree_gym.replay.rebuilding.rebuild import MakeAgain
from jamboree_gym.replay.rebuilding.wrapping import BuiltWrapper
from jamboree_gym.replay.verification.report import VerifyReport
from jamboree_gym.replay.verification.verify import check_of, verify_one
from jamboree_gym.replay.video_file import VideoEncoder, video_file

__all__ = ["FrameWriter", "Video", "video"]

DEFAULT_FPS = 30.0
_HINT_FOR_MUJOCO = (
    "\nMuJoCo renders by OpenGL. Without a display: apt-get install libegl1 and MUJOCO_GL=egl, "
    "or libosmesa6 and MUJOCO_GL=osmesa."
)


@dataclass(frozen=True, slots=True)
class Video:
    """A video that was written; true if it shows what was recorded, bit for bit.

    It can be used as a path: `open(video, "rb")`.

    Attributes:
        path: The file.
        frames: Number of frames.
        report: Of the replay that it shows.
    """

    path: Path
    frames: int
    report: VerifyReport

    def __bool__(self) -> bool:
        """Whether the replay was equal to the recording."""
        return bool(self.report)

    def __fspath__(self) -> str:
        """The path."""
        return str(self.path)

    def __str__(self) -> str:
        """The path and the number of frames; a second line says where the replay differs."""
        text = f"{self.path}: {self.frames:,} frames"
        return text if self else f"{text}\nunverified: {self.report}"


@checked
def video(
    episode: Episode,
    path: str | os.PathLike[str],
    *,
    fps: float | None = None,
    overwrite: bool = False,
    unverified: bool = False,
    wrappers: Sequence[BuiltWrapper] = (),
    trust_entry_point: bool = False,
    make: MakeAgain | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: bool | Progress = False,
) -> Video:
    """Write an episode into a video file, with one frame for the reset and one for each step.

    The episode is simulated again as by `verify`, with `render_mode="rgb_array"`. All returned
    values are compared with the recording. If anything differs, no video is written, because it
    would show another episode.

    Args:
        episode: An episode that `verify` accepts, of an environment that renders arrays.
        path: A path that ends in `.mp4` (H.264) or `.gif`.
        fps: Frames per second; None = `render_fps` of the environment's metadata, else 30.
        overwrite: Whether an existing file is replaced, once the video is complete.
        unverified: Write the video even if the replay differs. The report says where it differs.
        wrappers: As in `verify`.
        trust_entry_point: As in `verify`, which explains the risk.
        make: As in `verify`; it makes the environment with `render_mode="rgb_array"`.
        env_kwargs: As in `verify`.
        progress: Whether to show on stderr how many frames are written; or a function that is
            called with that number and the total.

    Returns:
        The path, the number of frames, and the report of the replay; true if all was equal.

    Raises:
        MissingExtra: PyAV is not installed.
        ExportError: The file is there already; nothing was written.
        ReplayError: The replay differs; names the first difference. Or the episode cannot be
            replayed or rendered here, or the file cannot be written; says why.

    Example:
        >>> video(jam.episodes(run="first").last(), "last.mp4")
    """
    check_free(Path(path), overwrite=overwrite)
    check = check_of(
        wrappers=wrappers, trust_entry_point=trust_entry_point, make=make, env_kwargs=env_kwargs
    )
    with video_file(Path(path)) as encoder:
        writer = FrameWriter(encoder, fps, len(episode) + 1, teller(progress, "frames rendered"))
        report = verify_one(episode, check, render_mode=RENDER_MODE, watch=writer.add_frame)
        if not report and not unverified:
            raise ReplayError(
                f"no video: episode {episode.id} does not happen again: {report.mismatch}\n"
                "Its frames would show another one; unverified=True takes them all the same."
            )
    return Video(Path(path), encoder.frames, report)


class FrameWriter:
    """Renders a frame of the environment after each move, and encodes it.

    Args:
        encoder: Takes the frames.
        fps: Frames per second; None = as the environment says.
        frames: How many will come.
        progress: Is told how many there are.
        render: Renders a frame of an environment.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        fps: float | None,
        frames: int,
        progress: Progress | None,
        render: Callable[[Any], Any] = rendered,
    ) -> None:
        self._encoder = encoder
        self._fps = fps
        self._frames = frames
        self._progress = progress
        self._render = render

    def add_frame(self, env: Any) -> None:
        """Render the environment as it is now."""
        fps = env.metadata.get("render_fps") if self._fps is None else self._fps
        self._encoder.add(self._frame(env), fps=DEFAULT_FPS if fps is None else float(fps))
        if self._progress is not None:
            self._progress(self._encoder.frames, self._frames)

    def _frame(self, env: Any) -> Any:
        try:
            return self._render(env)
        except Exception as error:
            hint = _HINT_FOR_MUJOCO if hasattr(env.unwrapped, "mujoco_renderer") else ""
            raise ReplayError(
                f"the environment cannot be rendered here: {error!r}{hint}"
            ) from error
