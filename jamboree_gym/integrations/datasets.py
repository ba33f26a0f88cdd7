"""Recorded steps as a data set of Hugging Face's `datasets`, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jamboree_gym.arrays.packing import as_objects
from jamboree_gym.arrays.trees import Arrays, check_leaf, leaves_of, path_shown, zip_leaves
from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import DecodeError, EpisodeNotFound, ExportError, MissingExtra
from jamboree_gym.integrations.found_episodes import FoundEpisode, is_annotated, store_found
from jamboree_gym.progress import Progress
from jamboree_gym.reading.parquet import write_parts
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.recording.importer import TICK_S
from jamboree_gym.records import Transitions
from jamboree_gym.tables.columns import Column, number_columns, scalar_columns

try:
    import datasets
except ImportError as error:
    raise MissingExtra("this needs datasets: pip install 'jamboree-gym[datasets]'") from error

__all__ = ["from_datasets", "to_datasets"]

_FILES: Final = "train-*.parquet"
_NEEDED: Final = ("episode_id", "index", "timestamp", "reward", "terminated", "truncated")
_ROLES: Final = ("observation", "next_observation", "action")
_NEEDS_NEWER: Final = (
    "\nSome episodes lack arrays that others have: install 'pyarrow>=26', or export each kind of "
    "episodes into a folder of its own"
)
_UNREADABLE = (pa.ArrowException, OSError, LookupError, TypeError, ValueError)


_ARRAYS = {
    2: datasets.Array2D,
    3: datasets.Array3D,
    4: datasets.Array4D,
    5: datasets.Array5D,
}


@overload
def to_datasets(
    query: EpisodeQuery,
    folder: str | Path,
    *,
    streaming: Literal[False] = False,
    cache_dir: str | Path | None = None,
    progress: bool | Progress = False,
) -> datasets.Dataset: ...


@overload
def to_datasets(
    query: EpisodeQuery,
    folder: str | Path,
    *,
    streaming: Literal[True],
    cache_dir: str | Path | None = None,
    progress: bool | Progress = False,
) -> datasets.IterableDataset: ...


@checked
def to_datasets(
    query: EpisodeQuery,
    folder: str | Path,
    *,
    streaming: bool = False,
    cache_dir: str | Path | None = None,
    progress: bool | Progress = False,
) -> datasets.Dataset | datasets.IterableDataset:
    """A data set of the steps of all episodes that are over, a row for each step.

    The steps are written into a folder of Parquet files, as by `EpisodeQuery.to_parquet` (a second
    call adds the missing episodes), but arrays keep their shape, and the next observation is
    included. `datasets.load_dataset(folder)` opens it anywhere, so it can be put on the Hub.

    Example:
        >>> steps = to_datasets(jam.episodes(run="first"), "first")
        >>> steps.with_format("torch")[0]["observation"]

    Args:
        query: The episodes.
        folder: The folder, which is made. It must not be one of `to_parquet`.
        streaming: Whether to read the files when rows are used, instead of copying them into the
            cache of `datasets` first.
        cache_dir: Folder of that cache; None = the one of `datasets`.
        progress: Whether to show on stderr how many episodes have been written; or a function that
            is called with that number and the number of all.

    Returns:
        A data set with the columns `episode_id`, `index`, `timestamp`, `reward`, `terminated`,
        `truncated`, `action`, `observation` (before the action), `next_observation` (after it),
        `annotation_<name>` (NaN, or 0 if it is no float, for steps without it), and `info_<key>`.
        A dict or tuple has a column for each leaf: `observation_joints_0`. A vector is a list of
        fixed length, an array of two to five dimensions `Array2D` to `Array5D`.

    Raises:
        ExportError: Values without fixed shape that are no texts, or arrays of more dimensions;
            names the leaf. Or another process writes there.
        ColumnConflict: No one column holds the values of two episodes; names both.
        EpisodeNotFound: An episode has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    connection, found = found_by(query)
    files = write_parts(connection, found, Path(folder), progress, _columns, prefix="train")
    return datasets.load_dataset(
        "parquet",
        data_files=[str(path) for path in files],
        split="train",
        streaming=streaming,
        cache_dir=None if cache_dir is None else str(cache_dir),
    )


def _columns(steps: Transitions) -> Mapping[str, Column | None]:
    columns = number_columns(steps)
    for name, arrays in (
        ("reward", steps.rewards),
        ("action", steps.actions),
        ("observation", steps.observations),
        ("next_observation", steps.next_observations),
        ("annotation", steps.annotations),
    ):
        columns.update(_leaf_columns(name, arrays))
    return columns | scalar_columns("info", steps.infos)


def _leaf_columns(name: str, arrays: Arrays) -> Iterator[tuple[str, Column]]:
    names: set[str] = set()
    for path, values in leaves_of(arrays, name):
        column = "_".join(map(str, path))
        check_leaf(path, values, into="datasets")
        if column in names:
            raise ExportError(
                f"{path_shown(path)} would be the column {column!r}, as another part is: rename "
                "one of the keys, with a wrapper below the recorder"
            )
        names.add(column)
        if values.dtype == object:
            yield column, pa.array(values.tolist(), pa.string())
        elif values.ndim > 2 and math.prod(values.shape[1:]):
            if values.ndim - 1 not in _ARRAYS:
                raise ExportError(f"{path_shown(path)}: datasets takes 5 dimensions at most")
            yield column, _array_column(values)
        else:
            yield column, values


def _array_column(values: npt.NDArray[Any]) -> pa.Array:
    """Arrays of two dimensions and more as `datasets` keeps them: lists of lists, and a shape."""
    feature = _ARRAYS[values.ndim - 1](values.shape[1:], str(values.dtype.newbyteorder("=")))
    kind = datasets.Features({"_": feature}).arrow_schema.field("_").type
    flat = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(-1)
    array = pa.array(flat)
    for size in reversed(values.shape[1:]):
        array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, size, dtype=np.int32), array)
    return pa.ExtensionArray.from_storage(kind, array)


# -- back -------------------------------------------------------------------------------------


@checked
def from_datasets(
    jam: HasConnection,
    folder: str | Path,
    *,
    run: str | None = None,
    tags: Mapping[str, Any] | None = None,
    progress: bool | Progress = False,
) -> list[str]:
    """Store the episodes of a folder of `to_datasets` as if they had been recorded.

    Values, dtypes and shapes of the steps are those of the recording, and so are the times. A dict
    or tuple comes back as a dict of its leaves: `observation_joints_0` is `joints_0`. The files
    have no environment, no seed, no tags, and nothing of the reset but its observation. So such an
    episode cannot be replayed, and begins a microsecond before its first step.

    The id of an episode follows from its recorded id and the run. So a second call, also after a
    kill, adds the missing episodes, and none twice.

    Example:
        >>> ids = from_datasets(jam, "first", run="back")

    Args:
        jam: The Jamboree that stores them.
        folder: The folder.
        run: The run of the episodes; None = the name of the folder.
        tags: Tags for all episodes, added to `imported_from` (`datasets`) and `imported_episode`
            (the recorded id).
        progress: Whether to show on stderr how many episodes there are; or a function that is
            called with that number and the number of all.

    Returns:
        Ids of the episodes, in the order of the files.

    Raises:
        EpisodeNotFound: There is no such file.
        DecodeError: A file is damaged, or has no column of what an episode needs; names it.
        InvalidRecord: A value or a tag cannot be stored.
        StoreUnavailable: Redis is away; call again when it is back.
    """
    files = sorted(Path(folder).glob(_FILES))
    if not files:
        raise EpisodeNotFound(f"no {_FILES} in {str(folder)!r}: give a folder of to_datasets")
    count = sum(len(set(_table(path, ["episode_id"])["episode_id"].to_pylist())) for path in files)
    found = (episode for path in files for episode in _episodes_in(path))
    name = Path(folder).resolve().name if run is None else run
    return store_found(
        jam, found, source="datasets", run=name, tags=tags, total=count, progress=progress
    )


def _table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        lacking = _lacking(pq.read_schema(path).names)
        if not lacking:
            return pq.read_table(path, columns=columns)
    except _UNREADABLE as error:
        advice = _NEEDS_NEWER if "Expected all lists to be of size" in str(error) else ""
        raise DecodeError(f"{path} cannot be read: {error}{advice}") from error
    raise DecodeError(
        f"{path} has no column {', '.join(lacking)}, which an episode needs\n"
        "import a folder that to_datasets has written"
    )


def _lacking(names: list[str]) -> list[str]:
    found = [name for name in _NEEDED if name not in names]
    return found + [role for role in _ROLES if not _of_role(names, role)]


def _of_role(names: Iterable[str], role: str) -> list[str]:
    return [name for name in names if name == role or name.startswith(f"{role}_")]


def _episodes_in(path: Path) -> Iterator[FoundEpisode]:
    table = _table(path)
    ids = np.array(table["episode_id"].to_pylist(), object)
    starts = [at for at in range(len(ids)) if at == 0 or ids[at] != ids[at - 1]]
    ends = [*starts[1:], len(ids)]
    if len(starts) != len(set(ids)):
        raise DecodeError(f"{path}: the steps of an episode do not follow each other")
    for start, end in zip(starts, ends, strict=True):
        id = str(ids[start])
        try:
            yield _found(id, table.slice(start, end - start))
        except _UNREADABLE as error:
            raise DecodeError(f"{path}: episode {id!r} cannot be read: {error}") from error


def _found(id: str, steps: pa.Table) -> FoundEpisode:
    if steps["index"].to_pylist() != list(range(len(steps))):
        raise ValueError("some of its steps are missing")
    observations, after = (_whole(steps, role) for role in ("observation", "next_observation"))
    timestamps = steps["timestamp"].to_numpy()
    annotations = _tree_of(steps, "annotation")
    return FoundEpisode(
        id,
        zip_leaves(lambda parts: np.concatenate((parts[0], parts[1][-1:])), [observations, after]),
        _whole(steps, "action"),
        _values(steps["reward"]),
        steps["terminated"].to_numpy(),
        steps["truncated"].to_numpy(),
        started_at=float(timestamps[0]) - TICK_S,
        timestamps=timestamps,
        infos=_infos(steps),
        annotations=annotations,
        annotated=is_annotated(annotations, len(steps)),
    )


def _whole(steps: pa.Table, role: str) -> Arrays:
    """The values of a role: an array, or a dict of its leaves."""
    found = _tree_of(steps, role)
    return found[""] if list(found) == [""] else found


def _tree_of(steps: pa.Table, role: str) -> dict[str, Arrays]:
    """The columns of a role that this episode has, without the role in their names."""
    return {
        name[len(role) + 1 :]: _values(steps[name])
        for name in _of_role(steps.column_names, role)
        if steps[name].null_count < len(steps)
    }


def _values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """A column as an array (n, ...); 0 where an annotation is missing."""
    array, shape = pa.concat_arrays(column.chunks), [len(column)]
    if isinstance(array.type, pa.ExtensionType):
        size = array.type.shape
        flat = array.storage
        while pa.types.is_list(flat.type):
            flat = flat.flatten()
        numbers: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=False)
        return numbers.reshape((len(array), *size))
    if pa.types.is_string(array.type):
        return as_objects(array.to_pylist())
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    if array.null_count:
        array = array.fill_null(False if pa.types.is_boolean(array.type) else 0)
    return np.array(array.to_numpy(zero_copy_only=False)).reshape(shape)


def _infos(steps: pa.Table) -> list[dict[str, Any]]:
    """Infos of all rows; that of the reset is empty."""
    infos: list[dict[str, Any]] = [{} for _ in range(len(steps) + 1)]
    for name in _of_role(steps.column_names, "info"):
        for info, value in zip(infos[1:], steps[name].to_pylist(), strict=True):
            if value is not None:
                info[name[len("info_") :]] = value
    return infos
