"""Recorded episodes in HDF5 files, and back: a group for each, laid out as Minari lays them out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jamboree_gym.arrays.kinds.stand_ins import is_alike
from jamboree_gym.arrays.packing import as_objects
from jamboree_gym.arrays.trees import Arrays, check_leaf, path_shown
from jamboree_gym.arrays.values import decode_value, encode_value
from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import DecodeError, EpisodeNotFound, ExportError, MissingExtra
from jamboree_gym.integrations.found_episodes import FoundEpisode, is_annotated, store_found
from jamboree_gym.progress import Progress
from jamboree_gym.reading.episode_parts import EpisodePart, episode_parts
from jamboree_gym.reading.part_folder import PartFolder, PatientFile, whole
from jamboree_gym.reading.query import EpisodeQuery, found_by
from jamboree_gym.tables.columns import Column, scalar_columns

try:
    import h5py
except ImportError as error:
    raise MissingExtra("this needs h5py: pip install 'jamboree-gym[hdf5]'") from error

__all__ = ["from_hdf5", "to_hdf5"]

PART_BYTES = 64 << 20
PART_EPISODES = 5000
_MAIN = "main_data.hdf5"  # as Minari calls it
_IDS = "episode_ids"
_LENGTHS = "episode_lengths"
_COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations", "timestamps")
_UNREADABLE = (OSError, LookupError, RuntimeError, TypeError, ValueError)
_SUMMARY = ("env_id", "run", "status", "started_at", "elapsed_s")
_SEEDS = range(-(2**63), 2**64)  # that HDF5 has a number for
_MAX_ATTRIBUTE = 60_000  # characters; HDF5 has room for less than 64 kB


@checked
def to_hdf5(
    query: EpisodeQuery,
    folder: str | Path,
    *,
    compression: str | None = None,
    progress: bool | Progress = False,
) -> Path:
    """Write the episodes that are over into HDF5 files of a folder.

    A process that is killed while it appends to an HDF5 file leaves a damaged file. So the episodes
    go into complete files `part-00000.hdf5`, ..., and `main_data.hdf5` links to all of them: open
    that one. If you call this again, also after a kill, it adds the missing episodes. The groups
    are those of Minari (https://minari.farama.org, `HDF5Storage`), with some additions.

    A group `episode_0`, `episode_1`, ... for each episode of T steps:

    - `observations` (T + 1, ...) and `actions` (T, ...): `actions[k]` is taken from
      `observations[k]`. A dict is a group with its keys, a tuple one with `_index_0`, ....
    - `rewards` float64 (T,), or (T, ...) where a reward is several numbers; `terminations`,
      `truncations` bool (T,). An episode that broke off (abandoned, interrupted) is truncated at
      its last step, as Minari has it; `status` tells.
    - `timestamps` float64 (T,), epoch seconds, and `annotations/<name>` (T, ...): NaN (0 for what
      is no float) where the agent said nothing.
    - `infos/<key>` (T + 1,), the reset's first, for keys whose values are numbers, bools or texts;
      those of nested dicts with a dot. Where an info lacks the key: NaN (so integers become
      float64, if that holds them exactly), or an empty text.
    - Attributes `id`, `total_steps`, `seed` where there is one, and `episode_id`, `env_id`, `run`,
      `status`, `started_at`, `elapsed_s`, `tags` (JSON). What is no such number or JSON is also in
      `seed_exact` and `tags_exact`, for `from_hdf5`.

    Example:
        >>> path = to_hdf5(jam.episodes(run="first"), "first")
        >>> h5py.File(path)["episode_0/rewards"][:]

    Args:
        query: The episodes.
        folder: Where to; it is made.
        compression: As h5py's `create_dataset` takes it: None, `"gzip"`, `"lzf"`.
        progress: Whether to show on stderr how many episodes have been written; or a function that
            is called with that number and the number of all.

    Returns:
        The file to open.

    Raises:
        ExportError: Values without fixed shape that are no texts (names the leaf), or tags for
            which HDF5 has no room; or another process writes there.
        EpisodeNotFound: An episode has been deleted meanwhile.
        DecodeError: Bytes of one are damaged; names key and index.
    """
    connection, found = found_by(query)
    files = PartFolder(Path(folder), "part-*.hdf5")
    with files.locked():
        known = {path: _lengths_in(path) for path in files.paths()}
        _write_main(files, known)  # a killed call may have written a part, but not yet its links
        there = {id: steps for lengths in known.values() for id, steps in lengths.items()}
        parts = files.rest(found, there, partial(episode_parts, connection), progress)
        _write_parts(files, parts, known, compression)
    return files.path / _MAIN


@checked
def from_hdf5(
    jam: HasConnection,
    path: str | Path,
    *,
    run: str | None = None,
    tags: Mapping[str, Any] | None = None,
    progress: bool | Progress = False,
) -> list[str]:
    """Store the episodes of a folder of `to_hdf5` as if they had been recorded.

    Values, dtypes, shapes, times, seed, tags and status are those of the recording. HDF5 has no
    spec, no spaces, no reset options and no versions of it, so such an episode cannot be replayed.
    An info that is NaN or an empty text is taken as one that was missing.

    The id of an episode follows from its recorded id and the run. So a second call, also after a
    kill, adds the missing episodes, and none twice.

    Example:
        >>> ids = from_hdf5(jam, "first", run="back")

    Args:
        jam: The Jamboree that stores them.
        path: The folder, or its `main_data.hdf5`.
        run: The run of the episodes; None = the name of the folder.
        tags: Tags for all episodes, added to the recorded ones and to `imported_from` (`hdf5`) and
            `imported_episode` (the recorded id).
        progress: Whether to show on stderr how many episodes there are; or a function that is
            called with that number and the number of all.

    Returns:
        Ids of the episodes, in the order of the file.

    Raises:
        EpisodeNotFound: There is no such file.
        DecodeError: It is damaged, or `to_hdf5` has not written it; names the episode.
        InvalidRecord: A value or a tag cannot be stored.
        StoreUnavailable: Redis is away; call again when it is back.
    """
    given = Path(path)
    main = given / _MAIN if given.is_dir() else given
    if not main.is_file():
        raise EpisodeNotFound(f"no HDF5 file {str(main)!r}: give a folder of to_hdf5")
    try:
        file = h5py.File(main)
    except _UNREADABLE as error:
        raise DecodeError(f"{main} cannot be read: {error}") from error
    with file:
        count = len(file)
        found = (_found(file, number, main) for number in range(count))
        name = main.resolve().parent.name if run is None else run
        return store_found(
            jam, found, source="hdf5", run=name, tags=tags, total=count, progress=progress
        )


def _lengths_in(path: Path) -> dict[str, int]:
    """Number of steps of the episodes in a file, by their ids, in order."""
    with h5py.File(path) as file:
        if _IDS not in file or _LENGTHS not in file:
            raise ExportError(f"{path} was written by something else: choose another folder")
        ids = [id.decode() for id in file[_IDS][:]]
        return dict(zip(ids, file[_LENGTHS][:].tolist(), strict=True))


_Known = dict[Path, dict[str, int]]
"""Number of steps of each episode, by its id, in each of the files."""


def _write_parts(
    files: PartFolder, parts: Iterator[EpisodePart], known: _Known, compression: str | None
) -> None:
    """Write new files, and add them to those that are known."""
    part = next(parts, None)
    while part is not None:
        path, number = files.next(), sum(map(len, known.values()))
        with whole(path) as aside, PatientFile(aside) as disk, h5py.File(disk, "w") as file:
            writer = _Writer(file, number, compression)
            while part is not None and not writer.is_full:
                writer.add(part)
                disk.check()
                part = next(parts, None)
            writer.finish()
        known[path] = writer.lengths
        _write_main(files, known)


def _write_main(files: PartFolder, known: _Known) -> None:
    """The file that links to all episodes."""
    number = 0
    path = files.path / _MAIN
    with whole(path) as aside, PatientFile(aside) as disk, h5py.File(disk, "w") as file:
        for path in sorted(known):
            for _ in known[path]:
                name = f"episode_{number}"
                file[name] = h5py.ExternalLink(path.name, f"/{name}")
                number += 1


class _Writer:
    def __init__(self, file: Any, number: int, compression: str | None) -> None:
        self._file = file
        self._number = number
        self._compression = compression
        self._infos: list[Mapping[str, Any]] = []
        self._nbytes = 0
        self.lengths: dict[str, int] = {}
        self.is_full = False

    def add(self, part: EpisodePart) -> None:
        """Write some rows of an episode, or all."""
        rows, steps, id = part.rows, part.rows[1:], part.summary.id
        name = f"episode_{self._number + len(self.lengths)}"
        group = self._file.require_group(name)
        terminations, truncations = part.ends
        observed = rows if part.is_first else steps
        columns = {
            "observations": observed.observations,
            "actions": steps.actions,
            "rewards": steps.rewards,
            "terminations": terminations,
            "truncations": truncations,
            "timestamps": steps.timestamps,
            "annotations": steps.annotations,
        }
        for column, arrays in columns.items():
            self._append_tree(group, column, arrays, (column,), id)
        self._infos += observed.infos
        if part.is_last:
            self._finish_episode(group, part)

    def _append_tree(
        self, group: Any, name: str, arrays: Arrays, path: tuple[str | int, ...], id: str
    ) -> None:
        """Append arrays, which may be nested, to the datasets of a group."""
        if isinstance(arrays, (dict, list, tuple)):
            for key, item in arrays.items() if isinstance(arrays, dict) else enumerate(arrays):
                part = _quoted(str(key)) if isinstance(arrays, dict) else f"_index_{key}"
                self._append_tree(group.require_group(name), part, item, (*path, key), id)
            return
        check_leaf(path, arrays, into="HDF5", episode=id)
        _check_texts(arrays, path, id)
        self._append(group, name, arrays)

    def _append(self, group: Any, name: str, values: npt.NDArray[Any]) -> None:
        self._nbytes += values.nbytes
        if name in group:
            dataset = group[name]
            dataset.resize(len(dataset) + len(values), axis=0)
            dataset[len(dataset) - len(values) :] = values
            return
        kind = h5py.string_dtype() if values.dtype == object else values.dtype
        growing = {"maxshape": (None, *values.shape[1:]), "chunks": True} if values.size else {}
        group.create_dataset(
            name, data=values, dtype=kind, compression=self._compression, **growing
        )

    def _finish_episode(self, group: Any, part: EpisodePart) -> None:
        for name, column in scalar_columns("", self._infos).items():
            values = None if column is None else _without_missing(column)
            if values is not None:
                _check_texts(values, ("infos", name[1:]), part.summary.id)
                self._append(group.require_group("infos"), _quoted(name[1:]), values)
        summary = part.summary.decoded()
        for what, text in (("env_id", summary.env_id), ("run", summary.run)):
            _check_texts([text], (what,), summary.id)
        group.attrs.update(
            {name: getattr(summary, name) for name in _SUMMARY},
            id=self._number + len(self.lengths),
            total_steps=summary.steps,
            episode_id=summary.id,
            **_seed_attributes(summary.seed),
            **_tag_attributes(summary.tags, summary.id),
        )
        if summary.returns is not None:
            group.attrs["returns"] = summary.returns
        self.lengths[summary.id] = summary.steps
        self._infos = []
        self.is_full = self._nbytes >= PART_BYTES or len(self.lengths) >= PART_EPISODES

    def finish(self) -> None:
        self._file.create_dataset(_IDS, data=list(self.lengths), dtype=h5py.string_dtype())
        self._file.create_dataset(_LENGTHS, data=list(self.lengths.values()), dtype=np.int64)


def _seed_attributes(seed: Any) -> dict[str, Any]:
    if seed is None:
        return {}
    attributes: dict[str, Any] = {}
    if isinstance(seed, (int, np.integer)) and int(seed) in _SEEDS:
        attributes["seed"] = int(seed)
    if type(seed) is not int or not attributes:
        attributes["seed_exact"] = encode_value(seed).hex()
    return attributes


def _tag_attributes(tags: Mapping[str, Any], id: str) -> dict[str, str]:
    """The tags as JSON, for people; beside it what JSON does not give back as it was."""
    attributes = {"tags": json.dumps(tags, default=str)}
    if not is_alike(json.loads(attributes["tags"]), dict(tags)):
        attributes["tags_exact"] = encode_value(dict(tags)).hex()
    if max(map(len, attributes.values())) > _MAX_ATTRIBUTE:
        raise ExportError(
            f"the tags of episode {id!r} are too long for HDF5, which has room for 64 kB beside "
            "an episode: ask for other episodes"
        )
    return attributes


def _quoted(name: str) -> str:
    """A name without what HDF5 takes for a path; `%` for the empty one."""
    quoted = name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    return (quoted.replace(".", "%2E") or "%") if set(quoted) <= {"."} else quoted


def _check_texts(values: Iterable[Any], path: tuple[str | int, ...], id: str) -> None:
    """Make sure that HDF5 can hold these, if they are texts."""
    is_typed = isinstance(values, np.ndarray) and values.dtype != object
    if not is_typed and any("\0" in value for value in values if isinstance(value, str)):
        raise ExportError(
            f"{path_shown(path)} of episode {id!r} has a text with a NUL character, which HDF5 "
            "cannot hold: ask for other episodes"
        )


def _without_missing(column: Column) -> npt.NDArray[Any] | None:
    """A column of infos without missing values; None if floats do not hold it exactly."""
    if isinstance(column, np.ndarray):
        return column
    if pa.types.is_string(column.type):
        return np.array([value or "" for value in column.to_pylist()], object)
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        return None


# -- back -------------------------------------------------------------------------------------


def _found(file: Any, number: int, path: Path) -> FoundEpisode:
    name = f"episode_{number}"
    where = f"{path}: {name}"
    try:
        group = file[name]
        lacking = [one for one in ("episode_id", *_SUMMARY) if one not in group.attrs]
        lacking += [one for one in _COLUMNS if one not in group]
        if lacking:
            raise DecodeError(
                f"{where} was not written by to_hdf5: it lacks {', '.join(lacking)}\n"
                "import a dataset of Minari by its id, not by its file"
            )
        return _read_episode(group)
    except _UNREADABLE as error:
        raise DecodeError(f"{where} cannot be read: {error}") from error


def _read_episode(group: Any) -> FoundEpisode:
    known = dict(group.attrs)
    columns = {name: _tree(group[name]) for name in _COLUMNS}
    steps, truncations = len(columns["rewards"]), columns["truncations"]
    if steps and known["status"] in ("abandoned", "interrupted"):
        truncations[-1] = False  # the environment did not say so
    annotations = _tree(group["annotations"]) if "annotations" in group else {}
    return FoundEpisode(
        str(known["episode_id"]),
        columns["observations"],
        columns["actions"],
        columns["rewards"],
        columns["terminations"],
        truncations,
        status=known["status"],
        env_id=str(known["env_id"]),
        started_at=float(known["started_at"]),
        timestamps=columns["timestamps"],
        seed=_exact(known, "seed", int(known["seed"]) if "seed" in known else None),
        tags=_exact(known, "tags", json.loads(known["tags"]) if "tags" in known else {}),
        infos=_infos(group["infos"], steps + 1) if "infos" in group else (),
        annotations=annotations,
        annotated=is_annotated(annotations, steps),
    )


def _exact(known: Mapping[str, Any], name: str, plain: Any) -> Any:
    """An attribute as it was, where what other programs read is not all of it."""
    stored = known.get(f"{name}_exact")
    return plain if stored is None else decode_value(bytes.fromhex(str(stored)), where=name)


def _tree(node: Any) -> Arrays:
    """Inverse of `_Writer._append_tree`."""
    if isinstance(node, h5py.Group):
        places = [f"_index_{at}" for at in range(len(node))]
        if places and set(places) == set(node):
            return tuple(_tree(node[place]) for place in places)
        return {_unquoted(name): _tree(part) for name, part in node.items()}
    if h5py.check_string_dtype(node.dtype) is not None:
        return as_objects(list(node.asstr()[:]))
    return node[:]


def _infos(group: Any, rows: int) -> list[dict[str, Any]]:
    infos: list[dict[str, Any]] = [{} for _ in range(rows)]
    for name, part in group.items():
        for info, value in zip(infos, _tree(part).tolist(), strict=True):
            if value not in ("", None) and value == value:
                info[_unquoted(name)] = value
    return infos


def _unquoted(name: str) -> str:
    return "" if name == "%" else unquote(name)
