"""An episode's summary and origin <-> bytes.

The note of an episode's head holds both; the listing of its run holds the summary alone, so that
showing 100,000 episodes is one round trip.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from zlib import crc32

import msgspec

from jamboree_gym.arrays.values import check_text, decode_value, encode_mapping, encode_value
from jamboree_gym.compiled import compiled_core
from jamboree_gym.encoding.batch_format import decode_note
from jamboree_gym.environment.hidden_generators import HIDDEN
from jamboree_gym.errors import DecodeError, InvalidRecord
from jamboree_gym.records import EpisodeOrigin, EpisodeStatus, EpisodeSummary, Progress

__all__ = [
    "Beginning",
    "StoredSummary",
    "SummaryTemplate",
    "check_summary",
    "decode_episode_note",
    "decode_outline",
    "decode_seeds",
    "decode_stored_note",
    "decode_stored_summary",
    "decode_summaries",
    "decode_summary",
    "encode_begun_note",
    "encode_episode_note",
    "encode_optional",
    "encode_origin",
    "encode_reset_origin",
    "encode_summary",
]

_PCG64 = "PCG64"
_core = compiled_core()

_CHECKSUM = struct.Struct("<I")
_ARRAY32 = struct.Struct(">BI")
_ARRAY, _NIL = 0xDD, b"\xc0"  # as msgpack marks an array of any length, and None
_SHORT_ARRAY = 0x90  # with its length added, up to 15
_ARRAY16 = struct.Struct(">BH")
_FORK = (None, None)  # run and step, where there is none
_RESERVED = ""  # older releases keep the id in this place
_CHANGING = 6  # parts of a summary that differ between episodes
_BEGUN = Progress("running", 0, 0.0, 0.0)

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]

_CARRIED = "carried"  # beside the state of a generator
_pack = msgspec.msgpack.Encoder().encode
_unpack_note = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_unpack_origin = msgspec.msgpack.Decoder(
    tuple[
        bytes | None,  # seed
        bytes | tuple[bytes, bytes, int, int] | None,  # state of the generator
        bytes | None,  # options
        str,  # provenance
        str | None,  # follows
        tuple[str, _Count] | None,  # parent and step
    ]
).decode


def check_summary(
    summary: EpisodeSummary, known: SummaryTemplate | None = None
) -> tuple[SummaryTemplate, bytes | None, bytes]:
    """Refuse a summary that could not be written.

    Args:
        summary: Of an episode.
        known: A template that may fit it, and saves the time to make one.

    Returns:
        Its template, its seed, encoded, and all of it, encoded.

    Raises:
        InvalidRecord: Something in it cannot be kept; names it.
    """
    if known is not None and not known.fits(summary):
        known = None
    id = summary.id
    if known is None or id.__class__ is not str or not id.isascii():
        _check_texts(summary)
    try:
        template = known or SummaryTemplate(summary)
        seed = encode_optional(summary.seed)
        return template, seed, template.encode(Progress.of(summary), summary.started_at, seed)
    except InvalidRecord as error:
        raise InvalidRecord(f"tags or seed of episode {summary.id!r}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InvalidRecord(f"the summary of episode {summary.id!r}: {error}") from error


def _check_texts(summary: EpisodeSummary) -> None:
    for name in ("id", "run", "env_id", "parent"):
        text = getattr(summary, name)
        if not (isinstance(text, str) or (name == "parent" and text is None)):
            raise InvalidRecord(f"{name}={text!r} of an episode is no text")
        if text and not text.isascii():
            check_text(name, text)


class SummaryTemplate:
    """The encoded parts of a summary that are the same for all episodes of one recorder.

    Args:
        summary: Of any of these episodes.

    Attributes:
        run: Of all of them.
        first: What an encoded summary begins with.
        last: What it ends with.
    """

    __slots__ = ("_fixed", "_is_fork", "_shared", "first", "last", "run")

    def __init__(self, summary: EpisodeSummary) -> None:
        self.run = summary.run
        first = [summary.env_id, summary.run]
        last = [
            encode_mapping(summary.tags) if summary.tags else None,
            summary.vector_index,
            bytes.fromhex(summary.writer),
            summary.parent,
        ]
        if summary.parent is not None:
            last += [summary.parent_run, summary.fork_step]  # older releases skip them
        count = len(first) + _CHANGING + len(last)
        self._fixed = _joined(first)
        self.first = bytes([_SHORT_ARRAY + count]) + self._fixed
        self._is_fork = summary.parent is not None
        self.last = _joined(last)
        fork = (summary.parent, summary.parent_run, summary.fork_step)
        plain = (summary.env_id, summary.run, summary.tags, summary.vector_index, summary.writer)
        self._shared = (*plain, *fork)

    def fits(self, summary: EpisodeSummary) -> bool:
        """Whether it is the template of this summary, too, whose parts are the very same objects.

        The tags may not have been changed since.
        """
        env_id, run, tags, vector_index, writer, *fork = self._shared
        return (
            summary.env_id is env_id
            and summary.run is run
            and summary.tags is tags
            and summary.vector_index is vector_index
            and summary.writer is writer
            and fork == [summary.parent, summary.parent_run, summary.fork_step]
        )

    def encode(self, progress: Progress, started_at: float, seed: bytes | None) -> bytes:
        """One entry of a listing. The id is not in it, because it is the entry's name.

        Args:
            progress: How far the episode is.
            started_at: As in `EpisodeSummary`.
            seed: Encoded.
        """
        changing = _pack(self.changing(progress, started_at, seed))
        content = b"".join((self.first, changing[1:], self.last))
        if progress.returns is not None:
            content = self._with_returns(changing[1:], progress.returns)
        return _CHECKSUM.pack(crc32(content)) + content

    def changing(
        self, progress: Progress, started_at: float, seed: bytes | None
    ) -> tuple[str, int, float, float, float, bytes | None]:
        """What stands between the parts that are the same for all."""
        status, steps, episode_return = progress.status, progress.steps, progress.episode_return
        return status, steps, episode_return, started_at, progress.elapsed_s, seed

    def _with_returns(self, changing: bytes, returns: Sequence[float]) -> bytes:
        """Of an episode whose rewards are several numbers; older releases skip what is more."""
        fork = [] if self._is_fork else [*_FORK]
        count = _ARRAY16.pack(0xDC, _WITH_RETURNS)
        more = _joined([*fork, _RESERVED, returns])
        return b"".join((count, self._fixed, changing, self.last, more))

    def summary(
        self, id: str, progress: Progress, started_at: float, seed: bytes | None
    ) -> EpisodeSummary:
        """What `encode` encodes, of the episode with this id."""
        env_id, run, tags, vector_index, writer, parent, parent_run, fork_step = self._shared
        return EpisodeSummary(
            id,
            env_id,
            run,
            progress.status,
            progress.steps,
            progress.episode_return,
            started_at,
            progress.elapsed_s,
            None if seed is None else decode_value(seed, where="memory"),
            tags,
            vector_index,
            writer,
            parent,
            fork_step,
            parent_run,
            progress.returns,
        )


class Beginning(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An episode as it begins: what is its own, and what it shares with others of its recorder.

    Attributes:
        id: Of the episode.
        started_at: Timestamp of row 0, epoch seconds.
        seed: Encoded; None where there is none.
        origin: What it can be begun with again; encoded.
        template: Of its summary.
        progress: As it begins.
    """

    id: str
    started_at: float
    seed: bytes | None
    origin: bytes
    template: SummaryTemplate
    progress: Progress = _BEGUN

    @classmethod
    def of(
        cls,
        summary: EpisodeSummary,
        origin: EpisodeOrigin,
        template: SummaryTemplate | None = None,
    ) -> Beginning:
        """That of an episode with this summary and origin.

        Args:
            summary: As it is before the first row.
            origin: What the episode can be begun with again.
            template: One that may fit the summary, and saves time then.

        Raises:
            InvalidRecord: Something in summary or origin cannot be kept; names it.
        """
        template, seed, _ = check_summary(summary, template)
        encoded = encode_origin(origin)
        progress = Progress.of(summary)
        return cls(summary.id, summary.started_at, seed, encoded, template, progress)

    def summary(self, progress: Progress) -> EpisodeSummary:
        """The summary, when the episode is that far."""
        return self.template.summary(self.id, progress, self.started_at, self.seed)

    def encoded(self, progress: Progress) -> tuple[bytes, bytes]:
        """The same as an entry of a listing, and the note of the log's head."""
        template = self.template
        if _core is not None and progress.returns is None:
            values = template.changing(progress, self.started_at, self.seed)
            encoded: tuple[bytes, bytes] | None
            encoded = _core.encode_note(template.first, values, template.last, self.origin)
            if encoded is not None:
                return encoded
        content = template.encode(progress, self.started_at, self.seed)
        return content, encode_episode_note(content, self.origin)

    @property
    def note(self) -> bytes:
        """The note of the log's head, before the first row."""
        return self.encoded(self.progress)[1]


def _joined(values: list[Any]) -> bytes:
    return b"".join(map(_pack, values))


def encode_summary(summary: EpisodeSummary) -> bytes:
    """One entry of a listing. The id is not in it, because it is the entry's name."""
    seed = encode_optional(summary.seed)
    return SummaryTemplate(summary).encode(Progress.of(summary), summary.started_at, seed)


def encode_begun_note(
    env_id: str,
    run: str,
    tags: bytes,
    started_at: float,
    vector_index: int,
    writer: bytes,
    origin: bytes,
) -> bytes:
    """The note of an episode that has just begun, without a seed, in a vector environment.

    Args:
        env_id: As in `EpisodeSummary`, like all that are not named here.
        run: Its run.
        tags: Encoded; empty where there are none.
        started_at: Timestamp of row 0, epoch seconds.
        vector_index: Which environment it is.
        writer: Eight bytes.
        origin: Encoded.
    """
    values = [env_id, run, "running", 0, 0.0, started_at, 0.0, None]
    values += [tags or None, vector_index, writer, None]
    content = _pack(values)
    return encode_episode_note(_CHECKSUM.pack(crc32(content)) + content, origin)


class StoredSummary(msgspec.Struct, array_like=True, gc=False):
    """A summary whose seed, tags and writer are still as they are stored.

    Of 100,000 in a listing most are looked at and left aside: these cost a tenth.

    Attributes:
        env_id: As in `EpisodeSummary`, like all that are not named here.
        seed: Encoded; None where there is none.
        tags: Encoded; None where there are none.
        writer: Eight bytes.
        parent_run: None also of a fork that an older release wrote; so is `fork_step`.
        reserved: Means nothing.
        returns: None also where a reward is one number.
        id: The episode's id, which is not stored with the rest.
        is_weighted: Whether a query has made one return of several. Not stored.
    """

    env_id: str
    run: str
    status: EpisodeStatus
    steps: _Count
    episode_return: float
    started_at: float
    elapsed_s: float
    seed: bytes | None
    tags: bytes | None
    vector_index: _Count | None
    writer: bytes
    parent: str | None
    parent_run: str | None = None
    fork_step: _Count | None = None
    reserved: str = ""
    returns: tuple[float, ...] | None = None
    id: str = ""
    is_weighted: bool = False

    @property
    def where(self) -> str:
        """What errors call it."""
        return f"summary of {self.id}"

    @property
    def is_experiment(self) -> bool:
        """As in `EpisodeSummary`."""
        return self.parent is not None and self.parent_run in (None, self.run)

    def decoded_tags(self) -> dict[str, Any]:
        """Its tags.

        Raises:
            DecodeError: They are damaged.
        """
        return {} if self.tags is None else _decode_dict(self.tags, f"tags in the {self.where}")

    def decoded_seed(self) -> Any:
        """Its seed, None where there is none."""
        return None if self.seed is None else decode_value(self.seed, where=self.where)

    def decoded(self) -> EpisodeSummary:
        """All of it.

        Raises:
            DecodeError: Seed or tags are damaged.
        """
        return EpisodeSummary(
            self.id,
            self.env_id,
            self.run,
            self.status,
            self.steps,
            self.episode_return,
            self.started_at,
            self.elapsed_s,
            self.decoded_seed(),
            self.decoded_tags(),
            self.vector_index,
            self.writer.hex(),
            self.parent,
            self.fork_step,
            self.parent_run,
            self.returns,
        )


_WITH_RETURNS = StoredSummary.__struct_fields__.index("id")  # parts that are stored

_unpack_summary = msgspec.msgpack.Decoder(StoredSummary).decode
_unpack_summaries = msgspec.msgpack.Decoder(list[StoredSummary]).decode


def decode_summaries(
    entries: Mapping[str, bytes],
) -> tuple[list[StoredSummary], dict[str, DecodeError]]:
    """A listing, by episode id -> its summaries, in the same order.

    Returns:
        Those that can be read, and by episode id what is wrong with the others.
    """
    checksum_of = _CHECKSUM.unpack_from
    contents: list[Any] = []
    damaged: dict[str, DecodeError] = {}
    for name, note in entries.items():
        content = note[4:]
        if len(note) < 4 or checksum_of(note)[0] != crc32(content):
            damaged[name] = DecodeError(f"summary of {name}: the checksum does not match")
        else:
            contents.append(content)
    names = [name for name in entries if name not in damaged] if damaged else list(entries)
    try:  # all as one array: a call for each would take longer than its decoding
        found = _unpack_summaries(_as_array(contents))
    except (msgspec.MsgspecError, TypeError, ValueError):
        return _one_by_one(dict(zip(names, contents, strict=True)), damaged)
    for name, summary in zip(names, found, strict=True):
        summary.id = name
    return found, damaged


def _one_by_one(
    contents: Mapping[str, bytes], damaged: dict[str, DecodeError]
) -> tuple[list[StoredSummary], dict[str, DecodeError]]:
    found = []
    for name, content in contents.items():
        try:
            summary = _unpacked_summary(content, f"summary of {name}")
        except DecodeError as error:
            damaged[name] = error
        else:
            summary.id = name
            found.append(summary)
    return found, damaged


def decode_seeds(summaries: Sequence[StoredSummary]) -> list[Any]:
    """Their seeds, None where there is none.

    Raises:
        DecodeError: One is damaged.
    """
    seeds = [_NIL if one.seed is None else one.seed for one in summaries]
    try:
        return list(decode_value(_as_array(seeds), where="seeds of a listing"))
    except DecodeError:
        return [one.decoded_seed() for one in summaries]  # says which


def _as_array(contents: Sequence[bytes]) -> bytes:
    """Encoded values as one msgpack array."""
    return _ARRAY32.pack(_ARRAY, len(contents)) + b"".join(contents)


def decode_summary(content: bytes, *, episode_id: str, where: str) -> EpisodeSummary:
    """Inverse of `encode_summary`.

    Raises:
        DecodeError: It is damaged.
    """
    stored = _unpacked_summary(decode_note(content, where=where), where)
    stored.id = episode_id
    return stored.decoded()


def _unpacked_summary(content: bytes, where: str) -> StoredSummary:
    try:
        return _unpack_summary(content)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise DecodeError(f"{where}: {error}") from error


def encode_origin(origin: EpisodeOrigin) -> bytes:
    """What does not change while the episode is recorded.

    Raises:
        InvalidRecord: Something in it cannot be kept; names it.
    """
    return encode_reset_origin(
        origin.provenance,
        origin.rng_state,
        origin.follows,
        seed=encode_optional(origin.seed),
        options=origin.options,
        carried=origin.carried,
        fork=None if origin.parent is None else (origin.parent, origin.fork_step),
    )


def encode_reset_origin(
    provenance: str,
    rng_state: Mapping[str, Any] | None,
    follows: str | None,
    *,
    seed: bytes | None = None,
    options: Any = None,
    carried: Sequence[Mapping[str, Any]] | None = None,
    fork: tuple[str, int | None] | None = None,
) -> bytes:
    """As `encode_origin`, from the parts of an `EpisodeOrigin`.

    Args:
        provenance: As in `EpisodeOrigin`.
        rng_state: State of the generator.
        follows: The episode before.
        seed: As `encode_optional` gives it.
        options: Of the reset.
        carried: What wrappers carried.
        fork: Id of the parent, and the number of its steps before the fork; None = it is no fork.

    Raises:
        InvalidRecord: Something in it cannot be kept; names it.
    """
    state = _encode_state(rng_state, carried)
    try:
        return _pack((seed, state, encode_optional(options), provenance, follows, fork))
    except (TypeError, ValueError) as error:
        raise InvalidRecord(f"the origin of an episode cannot be stored: {error}") from error


def encode_episode_note(summary: bytes, origin: bytes) -> bytes:
    """The note of an episode's head, from its encoded summary and its encoded origin."""
    content = _pack((summary, origin))
    return _CHECKSUM.pack(crc32(content)) + content


def decode_episode_note(
    note: bytes, *, episode_id: str, where: str
) -> tuple[EpisodeSummary, EpisodeOrigin]:
    """Inverse of `encode_episode_note`.

    Raises:
        DecodeError: It is damaged.
    """
    stored, content = _opened_note(note, where)
    stored.id = episode_id
    return stored.decoded(), _decode_origin(content, where)


def decode_stored_note(
    note: bytes, *, episode_id: str, where: str
) -> tuple[StoredSummary, EpisodeOrigin]:
    """As `decode_episode_note`, with the summary as it is stored; seed and tags can be decoded.

    Raises:
        DecodeError: It is damaged.
    """
    stored, content = _opened_note(note, where)
    stored.id = episode_id
    stored.decoded_seed(), stored.decoded_tags()
    return stored, _decode_origin(content, where)


def decode_stored_summary(note: bytes, *, episode_id: str, where: str) -> StoredSummary:
    """The summary in the note of an episode's head, as it is stored.

    Raises:
        DecodeError: It is damaged.
    """
    stored, _ = _opened_note(note, where)
    stored.id = episode_id
    return stored


def decode_outline(note: bytes, *, where: str) -> tuple[StoredSummary, str]:
    """The summary in the note of an episode's head, as it is stored, and the provenance's digest.

    For the backup, which copies the rest undecoded.

    Raises:
        DecodeError: It is damaged.
    """
    stored, content = _opened_note(note, where)
    return stored, _opened_origin(content, where)[3]


def _opened_note(note: bytes, where: str) -> tuple[StoredSummary, bytes]:
    """The summary in a note, as it is stored, and the encoded origin."""
    try:
        summary, origin = _unpack_note(decode_note(note, where=where))
    except msgspec.MsgspecError as error:
        raise DecodeError(f"{where}: not the note of an episode: {error}") from error
    return _unpacked_summary(decode_note(summary, where=where), where), origin


def _opened_origin(content: bytes, where: str) -> tuple[Any, ...]:
    try:
        return _unpack_origin(content)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise DecodeError(f"{where}: not the origin of an episode: {error}") from error


def _decode_origin(content: bytes, where: str) -> EpisodeOrigin:
    """Inverse of `encode_origin`."""
    seed, rng_state, options, provenance, follows, fork = _opened_origin(content, where)
    parent, fork_step = (None, None) if fork is None else fork
    state, carried = _decode_state(rng_state, where)
    return EpisodeOrigin(
        None if seed is None else decode_value(seed, where=where),
        state,
        None if options is None else decode_value(options, where=f"{where}: options"),
        provenance,
        follows,
        parent,
        fork_step,
        carried,
    )


def _decode_dict(content: bytes, where: str) -> dict[str, Any]:
    value = decode_value(content, where=where)
    if not isinstance(value, dict):
        raise DecodeError(f"{where}: a {type(value).__name__} where a dict was expected")
    return value


def _encode_state(
    rng_state: Mapping[str, Any] | None, carried: Sequence[Mapping[str, Any]] | None
) -> bytes | tuple[Any, ...] | None:
    """State of a generator, with what wrappers carried."""
    if carried is not None:
        return encode_value({**(rng_state or {}), _CARRIED: list(carried)})
    return None if rng_state is None else _encode_rng(rng_state)


def _decode_state(
    state: bytes | tuple[bytes, bytes, int, int] | None, where: str
) -> tuple[dict[str, Any] | None, list[Any] | None]:
    """Inverse of `_encode_state`."""
    found = None if state is None else _decode_rng(state, where)
    if found is None or _CARRIED not in found:
        return found, None
    carried = found.pop(_CARRIED)
    if not isinstance(carried, list) or not all(isinstance(one, dict) for one in carried):
        raise DecodeError(f"{where}: what wrappers carried is damaged")
    return found or None, carried


def _encode_rng(state: Mapping[str, Any]) -> bytes | tuple[Any, ...]:
    """State of a generator; that of PCG64, which is Gymnasium's, in a form that is quickly made."""
    if state.get("bit_generator") != _PCG64 or not state.keys().isdisjoint(HIDDEN):
        return encode_value(dict(state))
    inner = state["state"]
    big = inner["state"].to_bytes(16), inner["inc"].to_bytes(16)
    return *big, state["has_uint32"], state["uinteger"]


def _decode_rng(state: bytes | tuple[bytes, bytes, int, int], where: str) -> dict[str, Any]:
    if isinstance(state, bytes):
        return _decode_dict(state, f"{where}: state of the generator")
    inner, inc, has_uint32, uinteger = state
    return {
        "bit_generator": _PCG64,
        "state": {"state": int.from_bytes(inner), "inc": int.from_bytes(inc)},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }


def encode_optional(value: Any) -> bytes | None:
    """A value that may be missing."""
    return None if value is None else encode_value(value)
