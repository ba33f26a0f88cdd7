"""One episode <-> Minari's form of it; an error names the leaf that Minari cannot hold.

Minari's `observations[k]` was acted on by `actions[k]`, as in `EpisodeData`: nothing is shifted.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from jamboree_gym.arrays.layout import Group
from jamboree_gym.arrays.packing import Arrays
from jamboree_gym.arrays.step_schema import SchemaChanges, StepSchema
from jamboree_gym.encoding.summary_codec import (
    decode_episode_note,
    encode_episode_note,
    encode_origin,
    encode_summary,
)
from jamboree_gym.errors import DecodeError, InvalidRecord, UnsupportedSpace
from jamboree_gym.integrations.minari.columns import TIMESTAMP, InfoColumns, is_name, is_text
from jamboree_gym.keys import digest
from jamboree_gym.reading.bulk_read import WholeEpisode
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary

__all__ = ["Note", "check_minari_space", "note_of", "schemas_of", "to_buffer"]

_KNOWN = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete, spaces.Text)
_MAX_NOTE = 60_000  # an attribute in HDF5 has less than 64 kB
_LARGEST_SEED = 2**63 - 1
_NO_STEPS = slice(1, None)

Note = tuple[EpisodeSummary, EpisodeOrigin, str]
"""Summary, origin, and digest of the layouts of an episode that `to_minari` has written."""


def check_minari_space(space: spaces.Space[Any], place: str) -> None:
    """Check that Minari can hold values of a space; `place` is its name: `observation`.

    Raises:
        UnsupportedSpace: Names the leaf: `observation['map'][1]`.
    """
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            if not is_name(key):
                raise UnsupportedSpace(
                    f"Minari cannot hold {place}[{key!r}]: its files take no such name; a key is "
                    "a text without '/'"
                )
            check_minari_space(part, f"{place}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        for position, part in enumerate(space.spaces):
            check_minari_space(part, f"{place}[{position}]")
    elif not isinstance(space, _KNOWN):
        raise UnsupportedSpace(
            f"Minari cannot hold {place}: it has no {type(space).__name__} space. Leave it out "
            "with a wrapper (FilterObservation, TransformObservation) and record again"
        )
    elif 0 in (space.shape or ()):
        raise UnsupportedSpace(f"Minari cannot hold {place}: arrays of shape {space.shape}")


def to_buffer(
    whole: WholeEpisode, summary: EpisodeSummary, space_pair: tuple[Any, Any]
) -> tuple[EpisodeBuffer, dict[str, Any], dict[str, Any]]:
    """An episode in the form of Minari's writer: its buffer, metadata, and layouts by their digest.

    Minari requires an end: the last step of an episode without one is truncated; its status stays.

    Raises:
        InvalidRecord: Values are outside of their space, so Minari cannot hold them; names the
            leaf.
    """
    rows, steps = whole.rows, whole.rows[_NO_STEPS]
    columns = InfoColumns(rows.infos)
    columns.columns[TIMESTAMP] = rows.timestamps
    if steps.annotated.any():
        columns.add_annotations(steps.annotated, steps.annotations, _all_annotations(rows.schemas))
    truncations = steps.truncations.copy()
    truncations[-1] |= not steps.terminations[-1]
    where = f"episode {whole.id!r}: "
    buffer = EpisodeBuffer(
        seed=summary.seed if _is_seed(summary.seed) else None,
        options=_plain_options(whole.origin.options),
        observations=_arrays(rows.observations, space_pair[0], f"{where}observation"),
        actions=_arrays(steps.actions, space_pair[1], f"{where}action"),
        rewards=steps.rewards,
        terminations=steps.terminations,
        truncations=truncations,
        infos=columns.close(),
    )
    steps_json = [[row, schema.to_json()] for row, schema in rows.schemas]
    layouts = {"steps": steps_json, "infos": columns.layouts}
    name = digest(json.dumps(layouts, sort_keys=True).encode())
    return buffer, _metadata(summary, whole.origin, name), {name: layouts}


def _all_annotations(schemas: SchemaChanges) -> Group:
    """The layouts of all annotations, by name."""
    known = {
        name: part
        for _, schema in schemas
        for name, part in zip(schema.annotation.names, schema.annotation.parts, strict=True)
    }
    return Group("dict", tuple(known), tuple(known.values()))


def _arrays(arrays: Arrays, space: spaces.Space[Any], place: str) -> Any:
    """Arrays in the form of Minari's writer for a space."""
    if isinstance(space, spaces.Dict):
        if not isinstance(arrays, dict) or arrays.keys() != space.spaces.keys():
            raise _misfit(place, space)
        return {key: _arrays(arrays[key], of, f"{place}[{key!r}]") for key, of in space.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(arrays, (list, tuple)) or len(arrays) != len(space.spaces):
            raise _misfit(place, space)
        pairs = enumerate(zip(arrays, space.spaces, strict=True))
        return tuple(_arrays(part, of, f"{place}[{at}]") for at, (part, of) in pairs)
    if isinstance(space, spaces.Text):
        texts = arrays.tolist()
        if not all(map(is_text, texts)):
            raise _misfit(place, space)
        return texts
    if not isinstance(arrays, np.ndarray) or arrays.dtype.kind not in "biuf":
        raise _misfit(place, space)
    return arrays


def _misfit(place: str, space: spaces.Space[Any]) -> InvalidRecord:
    return InvalidRecord(
        f"{place} holds what is not of its space ({type(space).__name__}), or changes its shape "
        "or structure from step to step: Minari cannot hold that. Leave the episode out: where(...)"
    )


def _is_seed(seed: Any) -> bool:
    return isinstance(seed, int) and 0 <= seed <= _LARGEST_SEED


def _plain_options(options: Any) -> dict[str, Any] | None:
    """Reset options as far as Minari's files hold them: numbers and texts by name."""
    if not isinstance(options, Mapping):
        return None
    plain = {
        key: value
        for key, value in options.items()
        if is_name(key)
        and (isinstance(value, (bool, float)) or _is_seed(value) or (value and is_text(value)))
    }
    return plain or None


# -- the metadata of an episode -----------------------------------------------------------------


def schemas_of(layouts: Mapping[str, Any]) -> SchemaChanges:
    """The schemas in the layouts of `to_buffer`; a `DecodeError` if they are never written so."""
    try:
        return [(int(row), StepSchema.from_json(one).shared) for row, one in layouts["steps"]]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DecodeError(f"not the layouts of an episode: {error!r}") from error


def _metadata(summary: EpisodeSummary, origin: EpisodeOrigin, layouts: str) -> dict[str, Any]:
    """The metadata of an episode: fields for people, and the complete summary as a note."""
    note = b64encode(encode_episode_note(encode_summary(summary), encode_origin(origin))).decode()
    if len(note) > _MAX_NOTE:
        raise InvalidRecord(
            f"episode {summary.id!r}: its tags and reset options take {len(note)} bytes, of which "
            f"Minari's files hold {_MAX_NOTE} beside an episode"
        )
    return {
        "jamboree_id": summary.id,
        "jamboree_run": ascii(summary.run)[1:-1],
        "jamboree_status": summary.status,
        "jamboree_tags": ascii(dict(summary.tags))[:_MAX_NOTE],
        "jamboree_layouts": layouts,
        "jamboree_note": note,
    }


def note_of(metadata: Mapping[str, Any], where: str) -> Note | None:
    """The note that `to_minari` wrote for an episode; None if another program wrote the episode.

    A damaged one raises `DecodeError`.
    """
    if "jamboree_note" not in metadata:
        return None
    try:
        id, note = str(metadata["jamboree_id"]), b64decode(metadata["jamboree_note"])
        layouts = str(metadata["jamboree_layouts"])
    except (LookupError, TypeError, ValueError) as error:
        raise DecodeError(f"{where}: {error!r}") from error
    return (*decode_episode_note(note, episode_id=id, where=where), layouts)
