"""Writes frames into a video file. The only module that uses PyAV."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from jamboree_gym.errors import MissingExtra, ReplayArgument, ReplayError

__all__ = ["VideoEncoder", "video_file"]

_FORMATS: Final = {".mp4": "mp4", ".gif": "gif"}
_CRF: Final = "18"  # x264 removes only what no eye would miss
_MIN_FPS, _MAX_FPS = Fraction(1, 1000), 1000
_MAX_DENOMINATOR: Final = 1001  # 30000/1001 is a frame rate


@contextmanager
def video_file(path: Path) -> Iterator[VideoEncoder]:
    """A video file that appears at its path when it is complete; before, it is a temporary file.

    Args:
        path: Ends in `.mp4` (H.264, which browsers play) or `.gif`.

    Returns:
        A context with the encoder. If an error leaves the context, no file stays behind.

    Raises:
        MissingExtra: PyAV is not installed.
        ReplayArgument: The path has another suffix.
        ReplayError: It cannot be written.

    Example:
        >>> with video_file(Path("out.mp4")) as encoder:
        ...     encoder.add(frame, fps=30)
    """
    format = _FORMATS.get(path.suffix.lower())
    if format is None:
        raise ReplayArgument(f"{path} is neither .mp4 nor .gif: nothing else is written")
    av = _av()
    unfinished = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        with _named(path), VideoEncoder(av, unfinished, format, path) as encoder:
            yield encoder
            encoder.finish()
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise an error that names the file if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise ReplayError(f"{path} cannot be written: {error.strerror or error}") from error


def _av() -> Any:
    try:
        import av
        import av.filter
    except ImportError as error:
        raise MissingExtra("a video needs PyAV: pip install 'jamboree-gym[video]'") from error
    return av


class VideoEncoder:
    """Writes frames of one size into a file.

    Args:
        av: The PyAV module.
        path: The file. FFmpeg opens it: with a Python file object, PyAV 14 crashes if a write
            fails.
        format: `mp4` or `gif`.
        shown: The path that errors name.

    Attributes:
        frames: Number of frames written so far.
    """

    def __init__(self, av: Any, path: Path, format: str, shown: Path) -> None:
        self._av, self._format, self._shown = av, format, shown
        self._container = av.open(str(path), "w", format=format)
        self._stream: Any = None
        self._time_base = Fraction(1)
        self._palettes: Any = None
        self._shape: tuple[int, ...] = ()
        self.frames = 0

    def add(self, frame: Any, *, fps: float) -> None:
        """Append a frame.

        Args:
            frame: uint8 (height, width, 3). An MP4 needs even sizes: an odd one grows by a pixel.
            fps: Frames per second; only the value of the first call counts.

        Raises:
            ReplayError: The frame is no such array, its size differs from the first, `fps` is
                invalid, or the file cannot be written.
        """
        pixels = self._checked(frame)
        if self.frames == 0:
            self._begin(pixels, fps)
        picture = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture.pts = self.frames
        picture.time_base = self._time_base
        self.frames += 1
        with _named(self._shown):
            self._encode(picture)

    def finish(self) -> None:
        """Write the remaining frames and the end of the file."""
        if self.frames:
            self._encode(None)
        self._container.close()

    def __enter__(self) -> Self:
        """Use as a context manager, which closes the file."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file; without `finish` before, its content is incomplete."""
        with suppress(OSError):
            self._container.close()

    def _checked(self, frame: Any) -> npt.NDArray[np.uint8]:
        pixels = np.asarray(frame)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ReplayError(
                f"frame {self.frames} is no picture, a uint8 array (height, width, 3), but "
                f"{pixels.dtype} {pixels.shape}"
            )
        if self.frames and pixels.shape != self._shape:
            raise ReplayError(
                f"frame {self.frames} is {pixels.shape}, those before it {self._shape}: a video "
                "has one size"
            )
        self._shape = pixels.shape
        height, width, _ = pixels.shape if self._format == "mp4" else (0, 0, 0)
        return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")

    def _begin(self, pixels: npt.NDArray[np.uint8], fps: float) -> None:
        if not _MIN_FPS <= fps <= _MAX_FPS:
            raise ReplayArgument(f"fps={fps!r}: choose frames per second, 0.001 to {_MAX_FPS:,}")
        rate = Fraction(fps).limit_denominator(_MAX_DENOMINATOR)
        self._time_base = 1 / rate
        height, width, _ = pixels.shape
        if self._format == "gif":
            self._palettes = self._palette_graph(width, height)
            self._stream = self._container.add_stream("gif", rate=rate)
            self._stream.pix_fmt = "pal8"
        else:
            self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": _CRF})
            self._stream.pix_fmt = "yuv420p"
        self._stream.width, self._stream.height = width, height

    def _palette_graph(self, width: int, height: int) -> Any:
        """Give each frame its best 255 colours: a picture with fewer colours stays exact."""
        graph = self._av.filter.Graph()
        source = graph.add_buffer(
            width=width,
            height=height,
            format=self._av.VideoFormat("rgb24"),
            time_base=self._time_base,
        )
        split, sink = graph.add("split"), graph.add("buffersink")
        palette = graph.add("palettegen", "stats_mode=single")
        painted = graph.add("paletteuse", "new=1:dither=none")
        source.link_to(split)
        split.link_to(palette, 0, 0)
        split.link_to(painted, 1, 0)
        palette.link_to(painted, 0, 1)
        painted.link_to(sink)
        graph.configure()
        return graph

    def _encode(self, picture: Any) -> None:
        """Encode a picture; None encodes the pictures that are still in the pipeline."""
        for ready in self._painted(picture) if self._palettes is not None else (picture,):
            self._container.mux(self._stream.encode(ready))

    def _painted(self, picture: Any) -> Iterator[Any]:
        self._palettes.vpush(picture)
        while True:
            try:
                yield self._palettes.vpull()
            except BlockingIOError:
                return  # the filter waits for the next picture
            except EOFError:
                yield None
                return
