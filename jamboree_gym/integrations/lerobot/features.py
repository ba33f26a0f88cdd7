"""What LeRobot calls the leaves of steps, and how it keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.arrays.packing import rows_of
from jamboree_gym.arrays.trees import LeafPath, numbers_of, path_shown
from jamboree_gym.encoding.png import png
from jamboree_gym.errors import ExportError, InvalidArgument
from jamboree_gym.reading.episode_parts import EpisodePart

__all__ = ["Feature", "columns_of", "feature_of", "frames_of"]

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as `datasets` keeps them


@dataclass(frozen=True, slots=True)
class Feature:
    """A column of frames: NumPy's name of its dtype, or `image` for images (H, W, 3) of uint8.

    A single number has the shape (1,).
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether it is kept as PNG."""
        return self.dtype == "image"

    def to_json(self) -> dict[str, Any]:
        """As `meta/info.json` has it."""
        names = ["height", "width", "channels"] if self.is_image else None
        return {"dtype": self.dtype, "shape": list(self.shape), "names": names}

    def to_arrow(self, values: npt.NDArray[Any]) -> pa.Array:
        """Values (n, ...) as a column."""
        if self.is_image:
            encoded = [{"bytes": png(image), "path": None} for image in values]
            return pa.array(encoded, _IMAGE)
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        return flat if self.shape == (1,) else pa.FixedSizeListArray.from_arrays(flat, *self.shape)


def feature_of(values: npt.NDArray[Any]) -> Feature:
    """The feature that values (n, ...) have: `columns_of` gives no others."""
    if values.ndim == 4:
        return Feature("image", values.shape[1:])
    return Feature(values.dtype.name, values.shape[1:] or (1,))


def columns_of(part: EpisodePart, names: Mapping[str, str]) -> dict[str, npt.NDArray[Any]]:
    """Observations, actions and what came of them, a frame for each step; `names` renames columns.

    Raises:
        ExportError: A leaf is neither a number, a vector nor an image, or the action has several;
            names it. Or two features would have one name.
        InvalidArgument: `names` has a feature that is not there.
    """
    rows, id = part.rows, part.summary.id
    observations = rows_of(rows.observations, slice(-1))
    columns: dict[str, npt.NDArray[Any]] = {}
    for path, values in numbers_of(observations, "observation", episode=id, into="LeRobot"):
        name = _observation_name(path, _checked(path, values, id))
        if name in columns:
            raise ExportError(
                f"{path_shown(path)} of episode {id!r} would be {name!r}, as another part is: "
                "rename one of the keys, with a wrapper below the recorder"
            )
        columns[name] = values
    actions = rows_of(rows.actions, slice(1, None))
    for path, values in numbers_of(actions, "action", episode=id, into="LeRobot"):
        if len(path) > 1 or values.ndim > 2 or 0 in values.shape[1:]:
            raise ExportError(
                f"{path_shown(path)} of episode {id!r}: LeRobot takes one vector for an action"
            )
        columns["action"] = values
    terminations, truncations = part.ends
    if rows.rewards.ndim > 2:
        shape = rows.rewards.shape[1:]
        raise ExportError(f"a reward of episode {id!r} has shape {shape}: LeRobot takes a vector")
    with np.errstate(all="ignore"):  # beyond float32 it is infinite
        columns["next.reward"] = rows.rewards[1:].astype(np.float32)
    columns["next.done"] = terminations | truncations
    columns["next.truncated"] = truncations
    return _renamed(columns, names)


def _renamed(
    columns: dict[str, npt.NDArray[Any]], names: Mapping[str, str]
) -> dict[str, npt.NDArray[Any]]:
    if unknown := sorted(names.keys() - columns.keys()):
        raise InvalidArgument(
            f"names={{{unknown[0]!r}: ...}}: there is no such feature; there are "
            f"{', '.join(columns)}"
        )
    renamed = {names.get(name, name): values for name, values in columns.items()}
    if len(renamed) < len(columns):
        twice = [
            one for one, count in Counter(names.get(n, n) for n in columns).items() if count > 1
        ]
        raise ExportError(f"names={dict(names)!r}: two features would be called {twice[0]!r}")
    return renamed


def _checked(path: LeafPath, values: npt.NDArray[Any], id: str) -> npt.NDArray[Any]:
    is_image = values.dtype == np.uint8 and values.ndim == 4 and values.shape[3] == 3
    is_empty = 0 in values.shape[1:]
    if is_empty or (values.ndim > 2 and not is_image) or any("/" in str(key) for key in path):
        raise ExportError(
            f"{path_shown(path)} of episode {id!r} is {values.dtype} {values.shape[1:]}: LeRobot "
            "takes numbers, vectors and images (height, width, 3) of uint8, without / in their name"
        )
    return values


def _observation_name(path: LeafPath, values: npt.NDArray[Any]) -> str:
    keys = list(map(str, path[1:]))
    if values.ndim == 4:
        return ".".join(["observation.images", *keys] if keys else ["observation.image"])
    return ".".join(["observation", *(keys or ["state"])])


def frames_of(part: EpisodePart, fps: float) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """What LeRobot counts within an episode."""
    index = np.arange(part.rows.start, part.rows.start + len(part.rows) - 1, dtype=np.int64)
    yield "timestamp", (index / fps).astype(np.float32)
    yield "frame_index", index
