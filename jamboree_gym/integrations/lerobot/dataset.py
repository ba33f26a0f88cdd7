"""`to_lerobot`: episodes in the files of a LeRobot data set.

The layout is version 3.0 (https://huggingface.co/docs/lerobot/lerobot-dataset-v3), as
`LeRobotDataset` of lerobot 0.4.4 writes and reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jamboree_gym.checked import checked
from jamboree_gym.errors import ExportError, InvalidArgument
from jamboree_gym.integrations.lerobot.features import Feature, columns_of, feature_of, frames_of
from jamboree_gym.integrations.lerobot.stats import STATS, Stats
from jamboree_gym.progress import Progress
from jamboree_gym.reading.episode_parts import EpisodePart, episode_parts
from jamboree_gym.reading.part_folder import PartFolder, whole
from jamboree_gym.reading.query import EpisodeQuery, found_by

__all__ = ["to_lerobot"]

FILE_BYTES = 64 << 20  # in memory
GROUP_BYTES = 4 << 20  # of frames that are written at once
_FILES_PER_CHUNK = 1000
_PATH = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_ID = "jamboree_episode_id"  # a column more than LeRobot's own, in meta/episodes
_FPS = b"jamboree_fps"


@checked
def to_lerobot(
    query: EpisodeQuery,
    folder: str | Path,
    *,
    fps: float,
    task: str | None = None,
    names: Mapping[str, str] | None = None,
    robot_type: str | None = None,
    progress: bool | Progress = False,
) -> Path:
    """Write the episodes that are over as a LeRobot data set.

    A frame for each step: the observation *before* the action, the action, and its results. The
    last observation of an episode is not in a LeRobot data set; episodes without steps are left
    out. If you call this again, also after a kill, it adds the missing episodes. Open the data set
    after the call has returned.

    - A vector or number that is the whole observation is `observation.state`, an image
      `observation.image`; those of a dict are `observation.<key>` and `observation.images.<key>`.
      Images (H, W, 3) of uint8 are kept as PNG, without loss.
    - `action`; `next.reward` (float32), `next.done`, `next.truncated`. An episode that broke off
      (abandoned, interrupted) is truncated at its last step.
    - `timestamp` is `frame_index / fps`, as LeRobot demands, not the time at which it was recorded.
    - Statistics have `min`, `max`, `mean`, `std` and `count`, no quantiles.

    Example:
        >>> to_lerobot(jam.episodes(run="first"), "first", fps=50)
        >>> LeRobotDataset("me/first", root="first")[0]["observation.state"]

    Args:
        query: The episodes.
        folder: The folder, which is made.
        fps: Steps per second. All episodes of a folder have the same.
        task: The task in words; None = the id of the environment.
        names: Other names for the features: `{"observation.agent_pos": "observation.state"}`.
        robot_type: The robot type in LeRobot's metadata.
        progress: Whether to show on stderr how many episodes have been written; or a function that
            is called with that number and the number of all.

    Returns:
        The folder.

    Raises:
        InvalidArgument: `fps` is not above 0, or not that of the episodes in the folder; or `names`
            has a feature that is not there.
        ExportError: A leaf is neither a number, a vector nor an image, or the action has several
            (names it); episodes differ in their features, or two features would have one name; or
            another process writes there.
        EpisodeNotFound: An episode has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    if not 0 < fps < math.inf:
        raise InvalidArgument(f"fps={fps!r}: give the number of steps per second, above 0")
    connection, found = found_by(query)
    # A file in `meta/episodes` says that one of frames is whole.
    parts = PartFolder(Path(folder), "meta/episodes/*/file-*.parquet")
    with parts.locked():
        files = _Files(parts, fps)
        with_steps = [one for one in found if one.steps]
        read = partial(episode_parts, connection)
        _write(files, parts.rest(with_steps, files.lengths, read, progress), task, names or {})
        files.write_meta(robot_type)
    return parts.path


class _Files:
    """The files of a data set: steps of its episodes by id, frames, tasks, features if any."""

    def __init__(self, parts: PartFolder, fps: float) -> None:
        self.folder, self.paths, self.fps = parts.path, parts.paths, fps
        self.lengths: dict[str, int] = {}
        self.frames = 0
        self.tasks: list[str] = []
        self.features: dict[str, Feature] = {}
        for path in self.paths():
            table = pq.read_table(path, columns=[_ID, "tasks", "length"])
            steps = table["length"].to_pylist()
            self.lengths.update(zip(table[_ID].to_pylist(), steps, strict=True))
            self.frames += sum(steps)
            self.tasks += [name for (name,) in table["tasks"].to_pylist()]
            self.tasks = list(dict.fromkeys(self.tasks))
            self.features = _features_in(path)
            _check_fps(fps, _fps_in(path, self.folder), self.folder)

    def next(self) -> tuple[dict[str, int], Path, Path]:
        """Chunk and number of the next file, and its paths: of frames, of episodes."""
        chunk, number = divmod(len(self.paths()), _FILES_PER_CHUNK)
        place = {"chunk_index": chunk, "file_index": number}
        name = _PATH.format(**place)
        return place, self.folder / "data" / name, self.folder / "meta" / "episodes" / name

    def write_meta(self, robot_type: str | None) -> None:
        tasks = pa.table(
            {"task_index": pa.array(range(len(self.tasks)), pa.int64()), "task": self.tasks}
        )
        with whole(self.folder / "meta" / "tasks.parquet") as aside:
            pq.write_table(tasks.replace_schema_metadata({b"pandas": _TASK_IS_INDEX}), aside)
        _write_json(self.folder / "meta" / "stats.json", self._stats())
        info = {
            "codebase_version": "v3.0",
            "robot_type": robot_type,
            "total_episodes": len(self.lengths),
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": _FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.lengths)}"},
            "data_path": f"data/{_PATH}",
            "video_path": None,
            "features": {name: one.to_json() for name, one in self.features.items()},
        }
        _write_json(self.folder / "meta" / "info.json", info)

    def _stats(self) -> dict[str, Any]:
        stats = {name: Stats() for name in self.features}
        for path in self.paths():
            for name, one in stats.items():
                columns = {kind: f"stats/{name}/{kind}" for kind in STATS}
                table = pq.read_table(path, columns=list(columns.values()))
                lists = {kind: table[column].to_pylist() for kind, column in columns.items()}
                for row in range(len(table)):
                    one.add_stats({kind: values[row] for kind, values in lists.items()})
        return {
            name: one.to_json(is_image=self.features[name].is_image) for name, one in stats.items()
        }


# What makes a pandas index of the column `task`, as LeRobot expects it.
_TASK_IS_INDEX = json.dumps(
    {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, **kinds, "metadata": None}
            for name, kinds in (
                ("task_index", {"pandas_type": "int64", "numpy_type": "int64"}),
                ("task", {"pandas_type": "unicode", "numpy_type": "object"}),
            )
        ],
        "pandas_version": "2.0.0",
    }
).encode()


def _write_json(path: Path, content: Any) -> None:
    with whole(path) as aside:
        aside.write_text(json.dumps(content, indent=4))


# -- episodes ---------------------------------------------------------------------------------


def _fps_in(path: Path, folder: Path) -> float | None:
    """The steps per second that a file in `meta/episodes` names, or the whole data set."""
    known = (pq.read_schema(path).metadata or {}).get(_FPS)
    if known is not None:
        return float(known)
    info = folder / "meta" / "info.json"  # an older release has written them there alone
    return float(json.loads(info.read_text())["fps"]) if info.exists() else None


def _check_fps(fps: float, known: float | None, folder: Path) -> None:
    """The times of all frames follow from one number of steps per second."""
    if known is not None and known != fps:
        raise InvalidArgument(
            f"fps={fps!r}: the episodes in {folder} have {known:g} steps per second: give that, or "
            "choose another folder"
        )


def _features_in(path: Path) -> dict[str, Feature]:
    """The features that a file in `meta/episodes` names."""
    known = json.loads(pq.read_schema(path).metadata[_ID.encode()])
    return {name: Feature(one["dtype"], tuple(one["shape"])) for name, one in known.items()}


def _write(
    files: _Files,
    parts: Iterator[EpisodePart],
    task: str | None,
    names: Mapping[str, str],
) -> None:
    part = next(parts, None)
    while part is not None:
        place, data, episodes = files.next()
        with whole(data) as aside:
            writer = _Writer(files, aside, place)
            while part is not None and not writer.is_full:
                writer.add(part, part.summary.env_id if task is None else task, names)
                part = next(parts, None)
            writer.close()
        with whole(episodes) as aside:
            pq.write_table(writer.episodes(), aside)


class _Writer:
    """Writes frames of episodes into one file, and collects the metadata of these episodes."""

    def __init__(self, files: _Files, path: Path, place: Mapping[str, int]) -> None:
        self._files = files
        self._path = path
        self._place = {
            f"{kind}/{name}": number
            for kind in ("data", "meta/episodes")
            for name, number in place.items()
        }
        self._file: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._nbytes = self._waiting_nbytes = self._length = 0
        self._stats: dict[str, Stats] = {}
        self._episodes: list[dict[str, Any]] = []
        self.is_full = False

    def add(self, part: EpisodePart, task: str, names: Mapping[str, str]) -> None:
        files, count = self._files, len(part.rows) - 1
        if task not in files.tasks:
            files.tasks.append(task)
        start = files.frames + self._length
        columns = {
            **columns_of(part, names),
            **dict(frames_of(part, files.fps)),
            "episode_index": np.full(count, len(files.lengths)),
            "index": np.arange(start, start + count),
            "task_index": np.full(count, files.tasks.index(task)),
        }
        features = {name: feature_of(values) for name, values in columns.items()}
        _check_alike(files, features, part.summary.id)
        for name, values in columns.items():
            self._stats.setdefault(name, Stats()).add(values)
        self._append(pa.table({name: features[name].to_arrow(columns[name]) for name in features}))
        self._length += count
        if part.is_last:
            self._end(part.summary.id, task)

    def _append(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._nbytes += table.nbytes
        self._waiting_nbytes += table.nbytes
        if self._waiting_nbytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting).combine_chunks()
            if self._file is None:
                self._file = pq.ParquetWriter(self._path, table.schema)
            self._file.write_table(table)
        self._waiting, self._waiting_nbytes = [], 0

    def _end(self, id: str, task: str) -> None:
        files = self._files
        stats = {
            f"stats/{name}/{kind}": value
            for name, one in self._stats.items()
            for kind, value in one.to_json(is_image=files.features[name].is_image).items()
        }
        about = {
            "episode_index": len(files.lengths),
            "tasks": [task],
            "length": self._length,
            "dataset_from_index": files.frames,
            "dataset_to_index": files.frames + self._length,
            _ID: id,
        }
        self._episodes.append({**about, **self._place, **stats})
        files.lengths[id] = self._length
        files.frames += self._length
        self._length, self._stats = 0, {}
        self.is_full = self._nbytes >= FILE_BYTES

    def close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()

    def episodes(self) -> pa.Table:
        known = {name: one.to_json() for name, one in self._files.features.items()}
        table = pa.Table.from_pylist(self._episodes)
        noted = {_ID.encode(): json.dumps(known).encode(), _FPS: repr(self._files.fps).encode()}
        return table.replace_schema_metadata(noted)


def _check_alike(files: _Files, features: dict[str, Feature], id: str) -> None:
    """Make sure that an episode has the features of those before; an `ExportError` names one."""
    files.features = files.features or features
    for name in files.features.keys() | features.keys():
        one, other = files.features.get(name), features.get(name)
        if one != other:
            raise ExportError(
                f"{name} is {one and (one.dtype, one.shape)} in the data set, and "
                f"{other and (other.dtype, other.shape)} in episode {id!r}: ask for episodes that "
                "are alike"
            )
