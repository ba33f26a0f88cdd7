from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jamboree_gym.keys import Keyspace, quote_part

ODD = [
    "ALE/Pong-v5",
    "a:b",
    "{a}",
    "a}b{",
    "line\nbreak",
    "süß 🎲",
    "*?[x]",
    "%3A",
    "",
    "\x00",
    "a=b",
]
odd_text = st.one_of(st.sampled_from(ODD), st.text(max_size=8))
keys = st.dictionaries(odd_text, odd_text, max_size=3)


@given(entity=odd_text, other_entity=odd_text, keys=keys, other_keys=keys)
def test_only_equal_names_share_a_key(
    entity: str, other_entity: str, keys: dict[str, str], other_keys: dict[str, str]
) -> None:
    space = Keyspace("test")
    same_key = space.records(entity, keys) == space.records(other_entity, other_keys)
    assert same_key == ((entity, keys) == (other_entity, other_keys))


@given(namespace=odd_text, entity=odd_text, keys=keys)
def test_a_key_has_one_hash_tag_and_nothing_that_means_something_to_scan(
    namespace: str, entity: str, keys: dict[str, str]
) -> None:
    key = Keyspace(namespace).records(entity, keys)
    assert key.count("{") == key.count("}") == 1
    assert key.isascii()
    assert key.isprintable()
    assert not set(key) & set("*?[]\\ ")


@given(episode_id=st.text())
def test_an_episode_id_comes_back_from_its_key(episode_id: str) -> None:
    space = Keyspace("test")
    assert space.episode_id(space.episode(episode_id)) == episode_id


our_ids = st.uuids().map(lambda id: id.hex)


@given(odd_text, st.lists(our_ids) | st.lists(odd_text | our_ids))
def test_many_episodes_have_the_keys_that_each_of_them_has(namespace: str, ids: list[str]) -> None:
    space = Keyspace(namespace)
    buckets = space.buckets(16)

    keys = space.episodes(ids)

    assert keys == [space.episode(id) for id in ids]
    alone = [space.in_bucket(key, buckets[space.bucket_of(key, 16)]) for key in keys]
    assert space.in_buckets(keys, buckets) == alone


@given(st.text(max_size=9), st.lists(st.text(max_size=9) | our_ids))
def test_many_logs_lie_where_each_of_them_lies(namespace: str, ids: list[str]) -> None:
    space = Keyspace(namespace)
    buckets = space.buckets(16)
    keys = [space.episode(id) for id in ids] + [space.records(id, {"run": id}) for id in ids]

    alone = [space.in_bucket(key, buckets[space.bucket_of(key, 16)]) for key in keys]

    assert space.in_buckets(keys, buckets) == alone


def test_a_lone_surrogate_can_be_part_of_a_key() -> None:
    space = Keyspace("test")
    assert space.episode_id(space.episode("\udc80")) == "\udc80"


@given(namespace=odd_text, other=odd_text, at=st.integers(0, 255))
def test_a_scan_pattern_finds_the_logs_of_its_own_namespace_only(
    namespace: str, other: str, at: int
) -> None:
    records, episodes = Keyspace(namespace).log_patterns()
    space = Keyspace(other)
    bucket = space.buckets(256)[at]
    for key, pattern in (
        (space.records("note", {"name": "x"}), records),
        (space.episode("x"), episodes),
    ):
        found = fnmatchcase(space.in_bucket(key, bucket), pattern)
        assert found == (namespace == other)


def test_the_order_of_the_keys_does_not_matter() -> None:
    space = Keyspace("test")
    assert space.records("e", {"a": 1, "b": 2}) == space.records("e", {"b": 2, "a": 1})


@pytest.mark.parametrize(("part", "quoted"), [("a:b", "a%3Ab"), ("{x}", "%7Bx%7D"), (7, "7")])
def test_a_part_is_quoted(part: object, quoted: str) -> None:
    assert quote_part(part) == quoted
