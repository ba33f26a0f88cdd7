"""A Minari dataset on disk that grows in parts: a kill loses only the newest part.

A killed process may leave an HDF5 file unreadable. So episodes are written into *parts*: small
datasets in a hidden folder, each of which gets its name when it is complete. At the end, the old
dataset and all parts are copied into a new folder, which replaces the dataset. So Minari sees
either the old dataset or the complete new one.

    <datasets>/.jamboree/<id>/part-00000        whole; `lengths.json` in it says what it holds
    <datasets>/.jamboree/<id>/merged            whole; takes the dataset's place
    <datasets>/.jamboree/<id>/.*.jamboree-new   not whole: removed by the next call
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import minari
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import MinariDataset, parse_dataset_id
from minari.dataset.minari_storage import MinariStorage
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage.datasets_root_dir import get_dataset_path

from jamboree_gym.errors import InvalidArgument
from jamboree_gym.reading.part_folder import PartFolder, aside_of, whole

__all__ = ["FORMAT", "OWN_METADATA", "DatasetFiles", "Written"]

OWN_METADATA = "jamboree"
FORMAT = 1
MORE_BYTES = 2**16  # of an episode or a dataset, beside its values
DATASET_BYTES = 2**13  # of an array in HDF5, beside its values
_MAIN = "main_data.hdf5"
_LENGTHS = "lengths.json"

Written = tuple[EpisodeBuffer, Mapping[str, Any]]
"""An episode as Minari takes it, and the metadata that Minari keeps of it."""


class DatasetFiles:
    """The files of one dataset, and the `parts` that are not yet merged into it.

    Raises:
        InvalidArgument: The id is not `(namespace/)name-v0`.
    """

    def __init__(self, dataset_id: str) -> None:
        try:
            self.namespace, _, _ = parse_dataset_id(dataset_id)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                f"{dataset_id!r} is no id of a Minari dataset: it is (namespace/)name-v0, and the "
                "namespace has two characters or more"
            ) from error
        self.dataset_id = dataset_id
        root = Path(get_dataset_path()).absolute()  # Minari counts sizes wrong below a relative one
        self.data = root / dataset_id / "data"
        self._staging = root / ".jamboree" / quote(dataset_id, safe="")
        lock = Path(f"{self._staging}.lock")
        self.parts = PartFolder(self._staging, "part-*", lock=lock, shown=dataset_id)
        self._merged = self._staging / "merged"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the dataset; complete or remove what a killed process has begun.

        Raises:
            ExportError: Another process writes this dataset.
        """
        with self.parts.locked():
            self._publish()
            yield
            with suppress(OSError):  # it still holds parts
                self._staging.rmdir()

    @property
    def exists(self) -> bool:
        """Whether Minari sees the dataset."""
        return self.data.exists()

    def storage(self) -> MinariStorage:
        """The storage of the current dataset."""
        return MinariStorage.read(self.data)

    def own_metadata(self) -> dict[str, Any]:
        """The metadata that `to_minari` stored; empty if there is no dataset yet.

        Raises:
            InvalidArgument: Another program wrote the dataset of this id.
        """
        if not self.exists:
            return {}
        own = MinariStorage.read_raw_metadata(self.data).get(OWN_METADATA)
        if not isinstance(own, dict) or own.get("format") != FORMAT:
            raise InvalidArgument(
                f"the dataset {self.dataset_id!r} is there already, and to_minari did not write "
                "it: choose another name or version"
            )
        return own

    # -- reading ----------------------------------------------------------------------------

    def lengths(self) -> dict[str, int]:
        """Number of steps of each episode in the dataset and in parts, by id."""
        found: dict[str, int] = {}
        if self.exists:
            storage = self.storage()
            for one in storage.get_episode_metadata(range(storage.total_episodes)):
                found[str(one.get("jamboree_id"))] = int(one["total_steps"])
        for part in self.parts.paths():
            found.update(json.loads((part / _LENGTHS).read_text()))
        return found

    # -- writing ----------------------------------------------------------------------------

    def write_part(
        self,
        episodes: Sequence[Written],
        own: Mapping[str, Any],
        space_pair: tuple[spaces.Space[Any], spaces.Space[Any]],
        env_spec: EnvSpec | None,
    ) -> None:
        """Write episodes as one part, all or none of them.

        `own` is the metadata of the dataset that is needed to read them; the spaces are those of
        observations and actions.
        """
        with whole(self.parts.next()) as new:
            _check_room(new, sum(map(_most_bytes, episodes)))
            storage = MinariStorage.new(new, *space_pair, env_spec, jpeg_encoding=False)
            storage.update_episodes([buffer for buffer, _ in episodes])
            storage.update_episode_metadata([metadata for _, metadata in episodes])
            storage.update_metadata({OWN_METADATA: dict(own)})
            lengths = {one["jamboree_id"]: len(buffer.rewards) for buffer, one in episodes}
            (new / _LENGTHS).write_text(json.dumps(lengths))

    def finish(self, metadata: Mapping[str, Any]) -> MinariDataset:
        """Merge the parts into the dataset, and set its metadata."""
        parts = self.parts.paths()
        if parts:
            known = {"dataset_id": self.dataset_id, "minari_version": minari.__version__}
            known = {} if self.exists else known
            with whole(self._merged) as new:
                _check_room(new, sum(_bytes_of(one) for one in (self.data, *parts)))
                shutil.copytree(self.data if self.exists else parts[0], new)
                (new / _LENGTHS).unlink(missing_ok=True)
                self._merge(new, parts if self.exists else parts[1:])
                MinariStorage.read(new).update_metadata({**known, **metadata})
            self._publish()
        elif metadata:
            self.storage().update_metadata(dict(metadata))
        return MinariDataset(self.data)

    def _merge(self, target: Path, parts: Sequence[Path]) -> None:
        own = MinariStorage.read_raw_metadata(target)[OWN_METADATA]
        with h5py.File(target / _MAIN, "a", track_order=True) as file:
            for part in parts:
                _copy_episodes(part / _MAIN, file)
                own = merged(own, MinariStorage.read_raw_metadata(part)[OWN_METADATA])
            total_episodes = len(file)
            total_steps = sum(int(group.attrs["total_steps"]) for group in file.values())
        storage = MinariStorage.read(target)
        storage.update_metadata(
            {
                "total_episodes": total_episodes,
                "total_steps": total_steps,
                "dataset_size": float(storage.get_size()),
                OWN_METADATA: own,
            }
        )

    def _publish(self) -> None:
        """Replace the dataset by the merged one; also completes this for a call that was killed.

        If `merged` exists, it is newer than the dataset and holds all parts.
        """
        if not self._merged.exists():
            return
        for part in self.parts.paths():
            shutil.rmtree(part)
        if self.namespace is not None and self.namespace not in list_local_namespaces():
            create_namespace(self.namespace)
        before = aside_of(self._staging / "before")
        if self.exists:
            shutil.rmtree(before, ignore_errors=True)
            self.data.rename(before)
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self._merged.rename(self.data)
        shutil.rmtree(before, ignore_errors=True)


def _check_room(path: Path, nbytes: int) -> None:
    """Raise an OSError if there is no room for so many bytes beside a path.

    Where a write of HDF5 fails, the process crashes when it closes the file. So the room is taken
    by another file for a moment, before HDF5 writes.
    """
    room = path.with_name(f"{path.name}.room")
    try:
        with room.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, nbytes)
            elif shutil.disk_usage(path.parent).free < nbytes:  # macOS
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        room.unlink(missing_ok=True)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) + MORE_BYTES


def _most_bytes(episode: Written) -> int:
    """So large may an episode become as HDF5: its chunks are filled, each dataset has an index."""
    buffer, metadata = episode
    columns = (buffer.observations, buffer.actions, buffer.infos, metadata)
    return MORE_BYTES + 2 * sum(map(_nbytes, columns)) + 32 * len(buffer.rewards)


def _nbytes(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_nbytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_nbytes, value))
    size = 4 * len(value) + 16 if isinstance(value, str) else getattr(value, "nbytes", 8)
    return int(size) + (DATASET_BYTES if isinstance(value, np.ndarray) else 0)


def _copy_episodes(source: Path, target: h5py.File) -> None:
    with h5py.File(source, "r") as part:
        for number in range(len(part)):
            position = len(target)
            name = f"episode_{position}"
            part.copy(f"episode_{number}", target, name)
            target[name].attrs["id"] = position


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The merged metadata of two parts."""
    return {
        name: {**value, **other.get(name, {})} if isinstance(value, Mapping) else value
        for name, value in one.items()
    }
