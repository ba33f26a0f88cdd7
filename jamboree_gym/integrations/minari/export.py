"""`to_minari`: episodes of a query as a Minari dataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from minari import MinariDataset

from jamboree_gym.checked import checked
from jamboree_gym.connection import Connection
from jamboree_gym.encoding.summary_codec import StoredSummary
from jamboree_gym.environment.arguments import SPEC_FIELDS, arguments_from_json, unkept
from jamboree_gym.environment.provenance import BASE_VERSIONS, decode_provenance
from jamboree_gym.environment.spaces import space_from_json
from jamboree_gym.errors import DecodeError, EpisodeNotFound, InvalidRecord
from jamboree_gym.integrations.minari.convert import check_minari_space, to_buffer
from jamboree_gym.integrations.minari.staging import (
    FORMAT,
    DatasetFiles,
    Written,
    merged,
)
from jamboree_gym.progress import Progress
from jamboree_gym.reading.bulk_read import trips, whole_episodes
from jamboree_gym.reading.finding.filters import Found
from jamboree_gym.reading.query import EpisodeQuery, found_by

__all__ = ["to_minari"]

EPISODES_PER_PART = 500
_SAME = ("env_spec", "observation_space", "action_space")

log = logging.getLogger(__name__)


@checked
def to_minari(
    query: EpisodeQuery,
    dataset_id: str,
    *,
    description: str | None = None,
    algorithm_name: str | None = None,
    author: str | Collection[str] | None = None,
    author_email: str | Collection[str] | None = None,
    code_permalink: str | None = None,
    eval_env: str | EnvSpec | None = None,
    progress: bool | Progress = False,
) -> MinariDataset:
    """Write episodes completely into a Minari dataset (in Minari's HDF5 format).

    Observations (including the last one), actions, rewards, ends, infos, seeds and options are
    where Minari expects them. Everything else is stored in addition, and `from_minari` restores it.
    Images are stored without loss, not as JPEG.

    If you call this again with the same id, it adds the missing episodes: new ones, or the rest
    after a kill. No episode is written twice. Minari sees either the old dataset or the complete
    new one. Memory holds some MB, or one episode if that is larger.

    Running episodes and episodes without a step are left out, with a warning in the log. Minari
    requires an end, so the last step of an `abandoned` or `interrupted` episode is truncated; its
    status is in its metadata.

    Example:
        >>> dataset = to_minari(jam.episodes(run="expert"), "cartpole/expert-v0")
        >>> dataset.recover_environment()

    Args:
        query: The episodes, in the order of the dataset.
        dataset_id: `(namespace/)name-v0`. `MINARI_DATASETS_PATH` chooses the folder, as in Minari.
        description: Description in Markdown.
        algorithm_name: The algorithm that chose the actions.
        author: One name, or several.
        author_email: One address, or several.
        code_permalink: URL of the code that made the dataset.
        eval_env: Environment for evaluation; None = the recorded one.
        progress: Whether to show on stderr how many episodes are written; or a function that is
            called with that number and the number of all.

    Returns:
        The dataset, as `minari.load_dataset(dataset_id)` gives it.

    Raises:
        UnsupportedSpace: Minari has no such space (Sequence, Graph, OneOf); names the leaf.
        InvalidArgument: The id is invalid, or another program wrote the dataset of this id.
        InvalidRecord: The episodes have several environments, or values outside of their space.
        EpisodeNotFound: There is nothing to write, or an episode was deleted meanwhile.
        ExportError: Another process writes this dataset.
        MissingExtra: Minari, h5py or Pillow is not installed.
    """
    files = DatasetFiles(dataset_id)
    evaluated = gym.spec(eval_env) if isinstance(eval_env, str) else eval_env
    metadata = {
        "description": description,
        "algorithm_name": algorithm_name,
        "author": _names(author),
        "author_email": _names(author_email),
        "code_permalink": code_permalink,
        "eval_env_spec": None if evaluated is None else evaluated.to_json(),
    }
    given = {name: value for name, value in metadata.items() if value is not None}
    with files.locked():
        connection, found = found_by(query)
        wanted = _exportable(found)
        if not wanted and not files.exists:
            raise EpisodeNotFound(f"none of these episodes has ended with a step: {query!r}")
        export = _Export(connection, files)
        export.write(wanted, progress)
        return files.finish({**export.requirements(), **given})


def _names(names: str | Collection[str] | None) -> set[str] | None:
    return None if names is None else {names} if isinstance(names, str) else set(names)


def _exportable(found: Found) -> Found:
    """The episodes that are over and have a step."""
    wanted = [one for one in found if one.status != "running" and one.steps > 0]
    if len(wanted) < len(found):
        log.warning(
            "%d of %d episodes are not written: they have not ended, or have no step",
            len(found) - len(wanted),
            len(found),
        )
    return wanted


@dataclass(frozen=True, slots=True, eq=False)
class _Environment:
    """What all episodes of a dataset have in common."""

    spec: EnvSpec | None
    space_pair: tuple[spaces.Space[Any], spaces.Space[Any]]
    same: str
    versions: Mapping[str, str]


class _Export:
    def __init__(self, connection: Connection, files: DatasetFiles) -> None:
        self._connection = connection
        self._files = files
        self._own = files.own_metadata()
        self._environments: dict[str, _Environment] = {}
        self._texts: dict[str, str] = {}
        for name, text in self._own.get("provenances", {}).items():
            self._environment_of(name, text.encode())

    def write(self, wanted: Found, progress: bool | Progress) -> None:
        files = self._files
        for trip in files.parts.rest(wanted, files.lengths(), self._trips, progress):
            self._write(trip)

    def _trips(self, found: Found) -> Iterator[tuple[int, Found]]:
        done = 0
        for trip, _ in trips(self._connection, found, max_episodes=EPISODES_PER_PART):
            done += len(trip)
            yield done, trip

    def _write(self, trip: Found) -> None:
        episodes: list[Written] = []
        own: dict[str, Any] = {"format": FORMAT, "provenances": {}, "layouts": {}}
        whole = whole_episodes(self._connection, [one.id for one in trip])
        for one, decode in zip(trip, whole, strict=True):
            read = decode()
            name = read.origin.provenance
            environment = self._environments.get(name)
            if environment is None:
                content = self._connection.store.blobs.get(name)
                environment = self._environment_of(name, content, of=one)
            buffer, metadata, layouts = to_buffer(read, one.decoded(), environment.space_pair)
            episodes.append((buffer, metadata))
            found = {"provenances": {name: self._texts[name]}, "layouts": layouts}
            own = merged(own, found)
        first = self._first()
        self._files.write_part(episodes, own, first.space_pair, first.spec)

    def _first(self) -> _Environment:
        return next(iter(self._environments.values()))

    def _environment_of(
        self, name: str, content: bytes, of: StoredSummary | None = None
    ) -> _Environment:
        """The environment of a provenance; all of a dataset are the same."""
        environment = _environment(content, where=name)
        if of is not None and self._environments and environment.same != self._first().same:
            choose = (
                "where(env_id=...)" if of.parent is None else "where(parent=None): it is a fork"
            )
            raise InvalidRecord(
                f"episode {of.id!r} was recorded in another environment than those before it, "
                f"or with other spaces: a Minari dataset has one. Choose with {choose}"
            )
        self._environments[name] = environment
        self._texts[name] = content.decode()
        return environment

    def requirements(self) -> dict[str, Any]:
        """What to install to have the environment as it was, where that was always the same."""
        known = {
            json.dumps(one.versions, sort_keys=True): one.versions
            for one in self._environments.values()
        }
        versions = next(iter(known.values())) if len(known) == 1 else {}
        needed = [f"{name}=={version}" for name, version in versions.items()]
        return {"requirements": needed} if needed else {}


def _environment(content: bytes, *, where: str) -> _Environment:
    provenance = decode_provenance(content, where=where)
    try:
        pair = (
            space_from_json(provenance["observation_space"]),
            space_from_json(provenance["action_space"]),
        )
        spec = _stored_spec(provenance["env_spec"])
        same = json.dumps([provenance[name] for name in _SAME], sort_keys=True)
        versions = {
            name: str(version)
            for name, version in provenance["versions"].items()
            if name == "gymnasium" or name not in BASE_VERSIONS
        }
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DecodeError(f"{where}: not a provenance: {error!r}") from error
    for space, role in zip(pair, ("observation", "action"), strict=True):
        check_minari_space(space, role)
    versions = {name: version for name, version in versions.items() if version != "unknown"}
    return _Environment(spec, pair, same, versions)


def _stored_spec(content: Mapping[str, Any] | None) -> EnvSpec | None:
    """The spec that a provenance holds; made, not called. None where Minari could not store it."""
    if content is None or any(map(unkept, (content, *content["additional_wrappers"]))):
        return None
    fields = {name: content[name] for name in SPEC_FIELDS}
    spec = EnvSpec(**fields, kwargs=arguments_from_json(content))
    spec.additional_wrappers = tuple(
        WrapperSpec(
            one["name"],
            one["entry_point"],
            None if one["kwargs"] is None else arguments_from_json(one),
        )
        for one in content["additional_wrappers"]
    )
    try:
        spec.to_json()
    except (TypeError, ValueError):
        return None
    return spec
