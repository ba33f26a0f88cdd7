"""Recorded steps as a data set of Hugging Face's `datasets`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.arrays.trees import Arrays, check_leaf, leaves_of, path_shown
from jamboree_gym.checked import checked
from jamboree_gym.errors import ExportError, MissingExtra
from jamboree_gym.progress import Progress
from jamboree_gym.reading.parquet import write_parts
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.records import Transitions
from jamboree_gym.tables.columns import Column, number_columns, scalar_columns

try:
    import datasets
except ImportError as error:
    raise MissingExtra("this needs datasets: pip install 'jamboree-gym[datasets]'") from error

__all__ = ["to_datasets"]

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
    for path, values in leaves_of(arrays, name):
        column = "_".join(map(str, path))
        check_leaf(path, values, into="datasets")
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
