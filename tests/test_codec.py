from __future__ import annotations

import math
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jamboree_gym.arrays.values import encode_mapping
from jamboree_gym.compiled import compiled_core
from jamboree_gym.encoding.batch_format import (
    CODEC_RECORDS,
    CODEC_STEPS,
    Head,
    checked_body,
    decode_batch,
    decode_head,
    decode_note,
    decode_records,
    encode_batch,
    encode_note,
    encode_records,
)
from jamboree_gym.encoding.summary_codec import (
    Beginning,
    SummaryTemplate,
    check_summary,
    decode_summary,
    encode_episode_note,
    encode_summary,
)
from jamboree_gym.errors import DecodeError
from jamboree_gym.keys import digest
from jamboree_gym.records import EpisodeSummary, Progress

numbers = st.integers(0, 2**53)
times = st.floats(allow_nan=False)


def batch_of(records: list[dict[str, Any]], *, start: int = 7, codec: int = CODEC_RECORDS) -> bytes:
    timestamps = [float(start + i) for i in range(len(records))]
    return encode_batch(
        codec=codec,
        start=start,
        count=len(records),
        writer=b"writer01",
        t_first=timestamps[0],
        t_last=timestamps[-1],
        body=encode_records(timestamps, [encode_mapping(record) for record in records]),
    )


@given(
    start=numbers,
    count=st.integers(1, 2**32 - 1),
    writer=st.binary(min_size=8, max_size=8),
    t_first=times,
    t_last=times,
    codec=st.sampled_from([CODEC_RECORDS, CODEC_STEPS]),
    body=st.binary(),
)
def test_a_batch_comes_back(**parts: Any) -> None:
    batch = decode_batch(encode_batch(**parts), where="k")
    assert {name: getattr(batch, name) for name in parts} == parts
    assert batch.stop == parts["start"] + parts["count"]


@given(
    codec=st.sampled_from([CODEC_RECORDS, CODEC_STEPS]),
    first=numbers,
    held=numbers,
    newest=numbers,
    count=numbers,
    acked=numbers,
    revision=numbers,
    t_last=times,
    born=times,
    note=st.binary(),
)
def test_a_head_comes_back(**parts: Any) -> None:
    parts["count"] = max(parts[name] for name in ("first", "held", "newest", "acked", "count"))
    head = decode_head(Head(**parts).encode(), where="k")
    assert {name: getattr(head, name) for name in parts} == parts


@given(st.binary())
def test_a_note_comes_back(content: bytes) -> None:
    assert decode_note(encode_note(content), where="k") == content


@given(st.lists(st.dictionaries(st.text("abc", max_size=3), st.integers()), min_size=1))
def test_records_come_back_with_index_and_timestamp(records: list[dict[str, Any]]) -> None:
    decoded = decode_records(decode_batch(batch_of(records), where="k"), where="k")
    assert decoded == [
        {**record, "index": 7 + i, "timestamp": 7.0 + i} for i, record in enumerate(records)
    ]


def test_each_flipped_bit_in_a_batch_gives_decode_error_that_names_key_and_index() -> None:
    batch = batch_of([{"a": 1}, {"a": 2.5}])
    for bit in range(len(batch) * 8):
        damaged = bytearray(batch)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError, match=r"^the:key at index \d+: "):
            decode_batch(bytes(damaged), where="the:key")


def test_each_shortened_batch_gives_decode_error_that_names_the_key() -> None:
    batch = batch_of([{"a": 1}])
    for length in range(len(batch)):
        with pytest.raises(DecodeError, match=r"^the:key"):
            decode_batch(batch[:length], where="the:key")


def test_each_flipped_bit_in_a_note_gives_decode_error() -> None:
    note = encode_note(b"a note")
    for bit in range(len(note) * 8):
        damaged = bytearray(note)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError, match=r"^the:key: checksum"):
            decode_note(bytes(damaged), where="the:key")


def test_a_batch_of_an_unknown_version_asks_for_an_upgrade() -> None:
    batch = bytearray(batch_of([{"a": 1}]))
    batch[2] = 2
    with pytest.raises(DecodeError, match=r"k at index 7: format version 2 is unknown.* upgrade"):
        decode_batch(bytes(batch), where="k")


def test_rows_that_an_older_release_wrote_say_what_to_do() -> None:
    batch = bytearray(batch_of([{"a": 1}], codec=CODEC_STEPS))
    assert batch[2] == 2
    batch[2] = 1
    with pytest.raises(DecodeError, match=r"k at index 7: .* version 1, .*jamboree-gym migrate"):
        decode_batch(bytes(batch), where="k")


def test_records_are_of_the_version_that_older_releases_read() -> None:
    assert batch_of([{"a": 1}], codec=CODEC_RECORDS)[2] == 1


def a_head(**parts: Any) -> bytes:
    numbers = dict.fromkeys(("first", "held", "newest", "count", "acked", "revision"), 0)
    rest = {"codec": CODEC_RECORDS, "t_last": 0.0, "born": 0.0, "note": b""}
    return Head(**{**numbers, **rest, **parts}).encode()


@pytest.mark.parametrize(
    ("version", "what"),
    [(3, "format version 3 is unknown.* upgrade"), (1, "format version 1, .*jamboree-gym migrate")],
)
def test_a_head_of_another_version_says_what_to_do(version: int, what: str) -> None:
    head = bytearray(a_head())
    head[2] = version
    with pytest.raises(DecodeError, match=f"k: .*{what}"):
        decode_head(bytes(head), where="k")


def test_each_flipped_bit_in_the_numbers_of_a_head_gives_decode_error() -> None:
    head = a_head(first=1, count=3, acked=2, revision=7)
    for bit in range(len(head) * 8):
        damaged = bytearray(head)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError, match=r"^the:key: "):
            decode_head(bytes(damaged), where="the:key")


@pytest.mark.parametrize("head", [b"", b"JH", b"x" * 76, b"JB" + bytes(74)])
def test_what_is_no_head_gives_decode_error(head: bytes) -> None:
    with pytest.raises(DecodeError, match=r"k: the head of the log is damaged"):
        decode_head(head, where="k")


def test_a_head_that_contradicts_itself_gives_decode_error() -> None:
    head = a_head(first=5, count=3)
    with pytest.raises(DecodeError, match=r"k: the head of the log is damaged"):
        decode_head(head, where="k")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        struct.pack("<2d", 1, 2),
        struct.pack("<2d", 1, 2) + b"\x91\x80",
        struct.pack("<2d", 1, 2) + b"\x92\x80\x01",
        struct.pack("<2d", 1, math.nan) + b"\x92\x80\x80",
    ],
    ids=["empty", "no records", "too few", "not a dict", "no time"],
)
def test_a_body_that_is_not_what_its_header_says_gives_decode_error(body: bytes) -> None:
    parts = {"start": 0, "count": 2, "writer": b"writer01", "t_first": 1.0, "t_last": 2.0}
    batch = decode_batch(encode_batch(codec=CODEC_RECORDS, body=body, **parts), where="k")
    with pytest.raises(DecodeError, match=r"k at index [01]: "):
        decode_records(batch, where="k")


def test_a_batch_of_steps_is_not_read_as_records() -> None:
    batch = decode_batch(batch_of([{"a": 1}], codec=CODEC_STEPS), where="k")
    with pytest.raises(DecodeError, match="not a batch of records"):
        decode_records(batch, where="k")


def test_the_checksum_is_the_crc_that_other_languages_have() -> None:
    batch = batch_of([{"a": 1}])
    header, stored, body = batch[:40], struct.unpack("<I", batch[40:44])[0], batch[44:]
    assert stored == zlib.crc32(header + body)


@pytest.mark.parametrize("size", [0, 1, 5119, 5120, 5121, 10_240, 10_241, 81_920, 81_921, 10**6])
def test_the_checksum_of_any_size_is_that_of_zlib(size: int) -> None:
    body = bytes(i * i % 251 for i in range(size))
    batch = encode_batch(
        codec=CODEC_STEPS, start=0, count=1, writer=bytes(8), t_first=0.0, t_last=0.0, body=body
    )
    assert struct.unpack("<I", batch[40:44])[0] == zlib.crc32(batch[:40] + body)


def test_a_digest_is_sixteen_hexadecimal_digits() -> None:
    assert len(digest(b"x")) == 16
    assert digest(b"x") != digest(b"y")


@pytest.mark.parametrize(("start", "count"), [(3, 0), (2**53 + 1, 1), (2**64 - 1, 2)])
def test_a_batch_that_is_never_stored_gives_decode_error(start: int, count: int) -> None:
    times = {"t_first": 1.0, "t_last": 1.0}
    blob = encode_batch(
        codec=CODEC_STEPS, start=start, count=count, writer=bytes(8), **times, body=bytes(20)
    )

    with pytest.raises(DecodeError, match=f"log at index {start}: a batch of {count}"):
        decode_batch(blob, where="log")
    assert checked_body(blob, CODEC_STEPS)[1] == 0


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NUMBERS = st.floats(allow_nan=False)
SUMMARIES = st.builds(
    EpisodeSummary,
    TEXTS,
    TEXTS,
    TEXTS,
    st.sampled_from(["running", "terminated", "truncated", "abandoned"]),
    st.integers(0, 2**53),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.none() | st.integers() | st.lists(st.integers(), max_size=3),
    st.dictionaries(TEXTS, NUMBERS | TEXTS | st.none(), max_size=3),
    st.none() | st.integers(0, 1000),
    st.binary(min_size=8, max_size=8).map(bytes.hex),
)
FORKS = st.tuples(SUMMARIES, TEXTS, st.integers(0, 1000), TEXTS).map(
    lambda one: replace(one[0], parent=one[1], fork_step=one[2], parent_run=one[3])
)


@given(SUMMARIES | FORKS, SUMMARIES)
def test_a_summary_by_the_template_of_another_is_what_it_was(
    summary: EpisodeSummary, other: EpisodeSummary
) -> None:
    shared = ("env_id", "run", "tags", "vector_index", "writer", "parent", "fork_step")
    known = {name: getattr(summary, name) for name in (*shared, "parent_run")}
    template = SummaryTemplate(replace(other, **known))

    used, _, encoded = check_summary(summary, template)

    assert used is template
    assert encoded == encode_summary(summary)
    assert decode_summary(encoded, episode_id=summary.id, where="listing") == summary


STEPS = [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**53]
FLOATS = [0.0, -0.0, math.nan, math.inf, 5e-324]


@pytest.mark.compiled
@given(
    SUMMARIES | FORKS,
    st.sampled_from(["running", "terminated", "truncated", "abandoned"]),
    st.sampled_from(STEPS) | st.integers(0, 2**53),
    st.sampled_from(FLOATS) | st.floats(),
    st.none() | st.sampled_from([0, 255, 256, 65535, 65536]).map(bytes),
    st.sampled_from([0, 255, 256, 65535, 65536]).map(bytes),
)
def test_the_compiled_core_encodes_the_note_that_python_encodes(
    summary: EpisodeSummary,
    status: Any,
    steps: int,
    number: float,
    seed: bytes | None,
    origin: bytes,
) -> None:
    template, progress = SummaryTemplate(summary), Progress(status, steps, number, number)
    begun = Beginning("e", number, seed, origin, template)
    content = template.encode(progress, number, seed)
    core = compiled_core()
    assert core is not None

    expected = content, encode_episode_note(content, origin)
    values = template.changing(progress, number, seed)
    assert core.encode_note(template.first, values, template.last, origin) == expected
    assert begun.encoded(progress) == expected


@pytest.mark.compiled
@pytest.mark.parametrize("value", [-1, 2**63, True, np.float64(0.5), "x" * 32, "é", [], b""])
def test_a_note_of_other_values_is_left_to_python(value: Any) -> None:
    core = compiled_core()
    assert core is not None

    taken = core.encode_note(b"first", (0.5, value), b"last", b"origin")

    assert (taken is None) is (not isinstance(value, bytes))


@pytest.mark.parametrize("name", ["env_id", "run", "tags", "vector_index", "writer", "parent"])
def test_the_template_of_an_episode_that_differs_is_not_used(name: str) -> None:
    values = ("e", "Env-v0", "a", "running", 0, 0.0, 1.0, 0.0, None, {"lr": 1}, 0, "00" * 8)
    known = EpisodeSummary(*values, "p", 1, "a")
    others = {"tags": {"lr": 2}, "vector_index": 1, "writer": "11" * 8}
    summary = replace(known, **{name: others.get(name, "another")})

    _, _, encoded = check_summary(summary, SummaryTemplate(known))

    assert decode_summary(encoded, episode_id="e", where="listing") == summary
