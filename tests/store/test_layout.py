"""What Python and the server-side scripts each say of the bytes of a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from hypothesis import given, settings
from hypothesis import strategies as st
from lengths import examples

import jamboree_gym
from jamboree_gym.encoding.batch_format import Head, batch_span, decode_head, encode_batch
from jamboree_gym.keys import Keyspace
from jamboree_gym.store.log import identity
from jamboree_gym.store.redis import scripts
from jamboree_gym.store.redis.store import RedisStore

FIELDS = "codec", "first", "held", "newest", "count", "acked", "revision", "t_last", "born", "note"
EXACT = "local function exact(number) return string.format('%.17g', number) end"

READ_HEAD = f"""-- include: layout
{EXACT}
redis.call('RPUSH', KEYS[1], ARGV[1])
local head = read_head(KEYS[1])
redis.call('DEL', KEYS[1])
if head.err then return head end
return {{exact(head.codec), exact(head.first), exact(head.held), exact(head.newest),
        exact(head.count), exact(head.acked), exact(head.revision), exact(head.t_last),
        exact(head.born), head.note}}
"""

PACK_HEAD = """-- include: layout
local names = {'codec', 'first', 'held', 'newest', 'count', 'acked', 'revision', 't_last', 'born'}
local head = {note = ARGV[10]}
for i, name in ipairs(names) do head[name] = tonumber(ARGV[i]) end
return pack_head(head)
"""

READ_BATCH = f"""-- include: layout
{EXACT}
local start, stop, t_first, t_last = batch_span(ARGV[1])
return {{exact(start), exact(stop), exact(t_first), exact(t_last), batch_writer(ARGV[1])}}
"""

COMPARE_BATCHES = """-- include: layout
return {has_same_records(ARGV[1], ARGV[2]) and 1 or 0, identity(KEYS[1], tonumber(ARGV[3]))}
"""

times = st.floats(-1e12, 1e12)
indices = st.integers(0, 2**53)


@st.composite
def heads(draw: st.DrawFn) -> Head:
    count = draw(indices)
    first, held, newest, acked = (draw(st.integers(0, count)) for _ in range(4))
    born, revision, codec = draw(times), draw(indices), draw(st.sampled_from([1, 2]))
    return Head(
        codec, first, held, newest, count, acked, revision, draw(times), born, draw(st.binary())
    )


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `encode_batch`."""
    return {
        "codec": draw(st.sampled_from([1, 2])),
        "start": draw(st.integers(0, 2**53 - 2**32)),
        "count": draw(st.integers(1, 2**32 - 1)),
        "writer": draw(st.binary(min_size=8, max_size=8)),
        "t_first": draw(times),
        "t_last": draw(times),
        "body": draw(st.binary()),
    }


Run = Callable[..., Any]


@pytest.fixture
def run(valkey: Server, namespace: str) -> Iterator[Run]:
    """Runs the text of a script on the server."""
    store = RedisStore.from_url(valkey.url, Keyspace(namespace))
    composed = {
        text: scripts.compose(text) for text in (READ_HEAD, PACK_HEAD, READ_BATCH, COMPARE_BATCHES)
    }
    yield lambda text, *arguments: store.client.eval(
        composed[text].source, 1, f"{namespace}:log", *arguments
    )
    store.close()


def fields_of(head: Head) -> list[Any]:
    return [getattr(head, name) for name in FIELDS]


@pytest.mark.deep
def test_a_head_means_the_same_in_python_and_in_the_scripts(run: Run) -> None:
    @settings(max_examples=examples(150))
    @given(heads())
    def check(head: Head) -> None:
        *numbers, note = run(READ_HEAD, head.encode())
        assert [*map(float, numbers), note] == fields_of(head)
        packed = run(PACK_HEAD, *(repr(number) for number in fields_of(head)[:-1]), head.note)
        assert packed == head.encode()
        assert fields_of(decode_head(packed, where="k")) == fields_of(head)

    check()


@pytest.mark.deep
def test_a_batch_header_means_the_same_in_python_and_in_the_scripts(run: Run) -> None:
    @settings(max_examples=examples(500))
    @given(batches())
    def check(parts: dict[str, Any]) -> None:
        batch = encode_batch(**parts)
        *numbers, writer = run(READ_BATCH, batch)
        assert tuple(map(float, numbers)) == batch_span(batch)
        assert writer == parts["writer"]

    check()


@pytest.mark.parametrize("change", ["count", "writer", "t_first", "t_last", "body"])
def test_a_batch_that_was_moved_differs_in_its_index_alone(run: Run, change: str) -> None:
    one = {"codec": 1, "start": 3, "count": 2, "writer": b"writer-a", "t_first": 1.0}
    one |= {"t_last": 2.0, "body": b"records"}
    moved = one | {"start": 1000}
    other = moved | {change: {"writer": b"writer-b", "body": b"others"}.get(change, 7)}
    encoded = [encode_batch(**parts) for parts in (one, moved, other)]
    answers = [run(COMPARE_BATCHES, encoded[0], batch, 0)[0] for batch in encoded]
    assert answers == [1, 1, 0]


@pytest.mark.deep
def test_python_and_the_scripts_give_a_log_the_same_identity(run: Run, namespace: str) -> None:
    @settings(max_examples=examples(500))
    @given(times)
    def check(born: float) -> None:
        _, found = run(COMPARE_BATCHES, b"", b"", repr(born))
        assert found.decode() == identity(f"{namespace}:log", born)

    check()


@pytest.mark.once
def test_no_python_file_of_the_package_holds_a_script() -> None:
    package = Path(jamboree_gym.__file__).parent
    assert [path for path in package.rglob("*.py") if "redis.call(" in path.read_text()] == []


@pytest.mark.once
def test_every_lua_file_belongs_to_a_script() -> None:
    sent = "".join(script.source for script in scripts.ALL)
    for path in (Path(scripts.__file__).parent / "lua").iterdir():
        lines = path.read_text().splitlines()
        body = [line for line in lines if not line.startswith(("#!", "-- include: "))]
        assert "\n".join(body) in sent, f"{path.name} is part of no script"
