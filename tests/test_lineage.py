"""Parents, children, and how two episodes differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from recorded_envs import CountingEnv, ScriptedEnv
from stored import at

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.encoding.batch_format import encode_note
from jamboree_gym.encoding.summary_codec import (
    decode_episode_note,
    decode_seeds,
    decode_summaries,
    encode_episode_note,
    encode_origin,
    encode_summary,
)
from jamboree_gym.errors import DecodeError, EpisodeNotFound, ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary
from jamboree_gym.replay import fork


def record(jam: Jamboree, actions: list[Any], seed: int = 1, **options: Any) -> Episode:
    env = jam.record(gym.make("CartPole-v1"), **options)
    env.reset(seed=seed)
    for action in actions:
        env.step(action)
    env.close()
    return jam.episode(env.episode_id)


def forked(episode: Episode, step: int, actions: list[int], **options: Any) -> Episode:
    env = fork(episode, step, **options)
    for action in actions:
        env.step(action)
    env.close()
    return Episode(episode._connection, env.episode_id)


def scripted(jam: Jamboree, observations: list[Any], rewards: list[Any] | None = None) -> Episode:
    env = ScriptedEnv(observations, rewards)
    env.observation_space = spaces.Dict(
        image=spaces.Box(0, 255, (2, 3), np.uint8), words=spaces.Sequence(spaces.Discrete(9))
    )
    recorded = jam.record(env)
    recorded.reset()
    for _ in observations[1:]:
        recorded.step(np.zeros(2, np.float32))
    recorded.close()
    return jam.episode(recorded.episode_id)


def written(jam: Jamboree, id: str, parent: str | None, fork_step: int | None = 0) -> Episode:
    """An episode that says of itself where it comes from."""
    handler = EpisodeHandler(jam)
    handler.use_spaces(spaces.Discrete(2), spaces.Discrete(2))
    summary = EpisodeSummary(id, "", "run", "running", 0, 0.0, 1.0, 0.0, None, parent=parent)
    origin = EpisodeOrigin(None, None, None, "0" * 16, None, parent, fork_step)
    handler.begin(0, {}, summary=summary, origin=origin)
    handler.end("abandoned")
    return jam.episode(id)


# -- parents and children ---------------------------------------------------------------------


def test_children_come_oldest_first_from_every_run(jam: Jamboree) -> None:
    episode = record(jam, [0, 1, 0])
    record(jam, [0])
    children = [forked(episode, step, [1], run=run) for step, run in [(2, "b"), (0, "a"), (1, "c")]]
    grandchild = forked(children[0], 1, [0])

    assert [one.id for one in episode.children] == [one.id for one in children]
    assert [one.id for one in children[0].children] == [grandchild.id]
    assert grandchild.children == []


def test_a_lineage_begins_with_a_reset(jam: Jamboree) -> None:
    episode = record(jam, [0, 1, 0])
    child = forked(episode, 2, [1, 1])
    grandchild = forked(child, 1, [0])

    assert [one.id for one in grandchild.lineage] == [episode.id, child.id, grandchild.id]
    assert [one.id for one in episode.lineage] == [episode.id]
    assert episode.parent is None
    assert child.parent is not None
    assert child.parent.id == episode.id


def test_a_missing_parent_is_named(jam: Jamboree) -> None:
    episode = record(jam, [0, 1, 0])
    child = forked(episode, 2, [1, 1])
    grandchild = forked(child, 1, [0])
    child.delete()

    with pytest.raises(EpisodeNotFound, match=f"{grandchild.id}' was forked from '{child.id}'"):
        _ = grandchild.lineage
    with pytest.raises(EpisodeNotFound, match=f"no episode '{child.id}'"):
        _ = child.lineage
    assert len(grandchild) == 1


def test_a_circle_of_parents_is_found(jam: Jamboree) -> None:
    written(jam, "a", "c")
    written(jam, "b", "a")
    last = written(jam, "c", "b")

    with pytest.raises(DecodeError, match="'c' is forked from itself"):
        _ = last.lineage
    with pytest.raises(ReplayError, match="'c' is forked from itself"):
        fork(last, 0)


def test_children_are_found_by_a_query(jam: Jamboree) -> None:
    episode = record(jam, [0, 1, 0])
    child = forked(episode, 2, [1, 1])

    assert jam.episodes().where(parent=episode.id).ids() == [child.id]
    assert jam.episodes(forks=True).order_by("parent").ids() == [child.id, episode.id]
    table = jam.episodes(forks=True).summary_table()
    assert table.column("parent").to_pylist() == [None, episode.id]


def test_an_ordinary_episode_pays_a_byte_for_having_no_parent() -> None:
    summary = EpisodeSummary("e", "Env-v0", "run", "running", 0, 0.0, 1.0, 0.0, None)
    origin = EpisodeOrigin(1, None, None, "0" * 16)

    (stored,), _ = decode_summaries({"e": encode_summary(summary)})
    assert encode_summary(summary)[-1:] == encode_origin(origin)[-1:] == b"\xc0"
    assert (stored.parent, stored.decoded()) == (None, summary)


@pytest.mark.parametrize("fork_step", [-1, 1.5, None, "3", True])
def test_a_damaged_origin_is_an_error(fork_step: Any) -> None:
    summary = EpisodeSummary("e", "Env-v0", "run", "running", 0, 0.0, 1.0, 0.0, None, parent="p")
    origin = EpisodeOrigin(1, None, None, "0" * 16, None, "p", fork_step)
    note = encode_episode_note(encode_summary(summary), encode_origin(origin))

    with pytest.raises(DecodeError, match="not the origin of an episode"):
        decode_episode_note(note, episode_id="e", where="here")


# -- how two differ ---------------------------------------------------------------------------


def test_equal_episodes_do_not_differ(jam: Jamboree) -> None:
    report = jam.diff(record(jam, [0, 1, 0]), record(jam, [0, 1, 0]))

    assert not report
    assert (report.common_steps, report.divergence) == (3, None)
    assert str(report).endswith("\nall 3 steps are equal")


def test_a_python_action_is_as_good_as_a_numpy_one(jam: Jamboree) -> None:
    assert not jam.diff(record(jam, [0, 1, 0]), record(jam, [np.int64(0), np.int64(1), 0]))


def test_the_first_difference_is_named_with_both_values(jam: Jamboree) -> None:
    report = jam.diff(record(jam, [0, 1, 0, 0, 1]), record(jam, [0, 1, 1, 0, 0]))

    assert report
    assert report.common_steps == 2
    divergence = report.divergence
    assert divergence is not None
    assert (divergence.step, divergence.field, divergence.leaf) == (2, "action", "action")
    assert (divergence.a, divergence.b) == (0, 1)
    assert str(report).endswith("\nthe first 2 steps are equal; then action at step 2: 0 and 1")


def test_resets_may_differ(jam: Jamboree) -> None:
    one, other = record(jam, [0], seed=1), record(jam, [0], seed=2)

    divergence = jam.diff(one, other).divergence

    assert divergence is not None
    assert (divergence.step, divergence.leaf) == (-1, "observation[0]")
    assert divergence.a == one.data().observations[0, 0]
    assert "observation[0] at reset: " in str(divergence)


def test_the_very_number_is_named(jam: Jamboree) -> None:
    image, other = np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.uint8)
    other[1, 2] = 7
    first = {"image": image, "words": (1, 2)}
    one = scripted(jam, [first, first, {"image": image, "words": (1, 3)}])
    two = scripted(jam, [first, first, {"image": other, "words": (1, 3)}])
    three = scripted(jam, [first, {"image": image, "words": (1, 4)}, first])

    divergence = jam.diff(one, two).divergence
    assert divergence is not None
    assert (divergence.step, divergence.leaf) == (1, 'observation["image"][1, 2]')
    assert (divergence.a, divergence.b) == (0, 7)

    divergence = jam.diff(one, three).divergence
    assert divergence is not None
    assert (divergence.step, divergence.leaf) == (0, 'observation["words"][1]')
    assert (divergence.a, divergence.b) == (2, 4)


@pytest.mark.parametrize(("reward", "shown"), [(2.5, "1.0 and 2.5"), (-0.0, "0.0 and -0.0")])
def test_rewards_differ_by_their_bits(jam: Jamboree, reward: float, shown: str) -> None:
    first = {"image": np.zeros((2, 3), np.uint8), "words": ()}
    before = 1.0 if reward == 2.5 else 0.0
    one = scripted(jam, [first] * 3, [1.0, before])
    two = scripted(jam, [first] * 3, [1.0, reward])

    assert str(jam.diff(one, two).divergence) == f"reward at step 1: {shown}"


def test_a_nan_equals_itself(jam: Jamboree) -> None:
    first = {"image": np.zeros((2, 3), np.uint8), "words": ()}

    assert not jam.diff(*(scripted(jam, [first] * 2, [float("nan")]) for _ in range(2)))


@pytest.mark.parametrize("image", [np.zeros((2, 3), np.int16), np.zeros(4, np.uint8), None])
def test_an_episode_whose_layout_changes_is_equal_until_then(jam: Jamboree, image: Any) -> None:
    first = {"image": np.zeros((2, 3), np.uint8), "words": (1,)}
    one = scripted(jam, [first, first, {**first, "image": image}])
    other = scripted(jam, [first] * 3)

    divergence = jam.diff(one, other).divergence

    assert divergence is not None
    assert (divergence.step, divergence.leaf) == (1, 'observation["image"]')


def test_a_shorter_one_ends_where_the_other_goes_on(jam: Jamboree) -> None:
    report = jam.diff(record(jam, [0, 1, 0]), record(jam, [0, 1]))

    assert report.divergence is not None
    assert (report.common_steps, report.divergence.field) == (2, "length")
    assert (report.divergence.a, report.divergence.b) == (3, 2)


def test_ends_differ(jam: Jamboree) -> None:
    episodes = []
    for ending in ("terminated", "truncated"):
        env = jam.record(CountingEnv(ending=ending))
        env.reset()
        for _ in range(3):
            env.step(np.zeros(2, np.float32))
        episodes.append(jam.episode(env.episode_id))

    assert str(jam.diff(*episodes).divergence) == "terminated at step 2: True and False"


def test_other_environments_differ_from_the_reset_on(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()

    divergence = jam.diff(record(jam, [0]), env.episode_id).divergence

    assert divergence is not None
    assert (divergence.step, divergence.leaf) == (-1, "observation")


# -- forks are whole histories ----------------------------------------------------------------


def test_a_child_parts_from_its_parent_where_it_does_something_else(jam: Jamboree) -> None:
    episode = record(jam, [0, 1, 0, 1, 0, 1])

    at_once = jam.diff(episode, forked(episode, 2, [1, 1]))
    later = jam.diff(episode, forked(episode, 2, [0, 1, 1]))
    never = jam.diff(forked(episode, 2, [0, 1, 0, 1]), episode)

    assert (at_once.common_steps, at_once.divergence.step) == (2, 2)
    assert (later.common_steps, later.divergence.step) == (4, 4)
    assert (later.divergence.a, later.divergence.b) == (0, 1)
    assert not never
    assert never.common_steps == 6


def test_siblings_and_cousins_are_compared_from_the_reset_on(jam: Jamboree) -> None:
    episode = record(jam, [0, 1, 0, 1, 0, 1])
    one, other = forked(episode, 2, [0, 1, 1]), forked(episode, 3, [1, 1])
    grandchild = forked(one, 1, [1, 1, 0])
    stranger = record(jam, [0, 1, 0, 1, 1, 0])

    assert not jam.diff(one, other)
    assert not jam.diff(grandchild, stranger)
    assert jam.diff(grandchild, one).common_steps == 5
    assert jam.diff(grandchild, record(jam, [0, 1, 1])).divergence.step == 2


def test_what_both_have_of_the_same_parent_is_not_read(jam: Jamboree) -> None:
    episode = record(jam, [0, 1] * 6)
    one, other = forked(episode, 10, [1]), forked(episode, 9, [1])
    jam.redis.lset(at(jam, jam._connection.keyspace.episode(episode.id)), 1, b"damaged")

    with pytest.raises(DecodeError):
        episode.data()
    with pytest.raises(DecodeError):
        jam.diff(one, other)
    assert jam.diff(one, forked_twin(jam, one)).divergence is None


def forked_twin(jam: Jamboree, episode: Episode) -> Episode:
    """Another child of the same parent at the same step, with the same steps."""
    rows = episode._rows()
    handler = EpisodeHandler(jam)
    handler.use_spaces(gym.make("CartPole-v1").observation_space, spaces.Discrete(2))
    summary, origin = episode.summary, episode.origin
    handler.begin(
        rows.observation(0),
        {},
        summary=EpisodeSummary(
            "twin", "CartPole-v1", "run", "running", 0, 0.0, 1.0, 0.0, None, parent=summary.parent
        ),
        origin=origin,
    )
    handler.step(rows.action(1), rows.observation(1), float(rows.rewards[1]), False, False, {})
    handler.end("abandoned")
    return jam.episode("twin")


def test_the_summaries_stand_side_by_side(jam: Jamboree) -> None:
    episode = record(jam, [0, 1, 0, 1], run="first")
    child = forked(episode, 3, [0], run="second")

    lines = str(jam.diff(episode.id, child.id)).split("\n")

    cells = [line.split() for line in lines[:-1]]
    assert ["id", episode.id, child.id] in cells
    assert ["run", "first", "second"] in cells
    assert ["steps", "4", "1"] in cells
    assert ["episode_return", "4.0", "1.0"] in cells
    assert ["parent", "None", episode.id] in cells
    assert lines[-1] == "the first 3 steps are equal; then action at step 3: 1 and 0"


def test_a_missing_episode_is_named(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound, match="nobody"):
        jam.diff(record(jam, [0]), "nobody")


@pytest.mark.parametrize(
    "changes", [{"steps": 2**60}, {"steps": -1}, {"vector_index": -1}], ids=str
)
def test_a_summary_that_no_episode_has_is_an_error(changes: dict[str, Any]) -> None:
    summary = EpisodeSummary("e", "Env-v0", "run", "running", 0, 0.0, 1.0, 0.0, None)
    note = encode_summary(replace(summary, **changes))

    found, damaged = decode_summaries({"e": note})

    assert found == []
    assert str(damaged["e"]).startswith("summary of e")


def test_tags_that_are_no_dict_and_a_seed_that_is_damaged_name_their_episode() -> None:
    values = ["Env-v0", "run", "running", 0, 0.0, 1.0, 0.0, b"\xc1", b"\x01", None, b"", None]
    (summary,), _ = decode_summaries({"e": encode_note(msgspec.msgpack.encode(values))})

    with pytest.raises(DecodeError, match="summary of e"):
        summary.decoded_tags()
    with pytest.raises(DecodeError, match="summary of e"):
        decode_seeds([summary])


@pytest.mark.parametrize("position", range(6))
def test_an_origin_with_something_of_another_kind_is_an_error(position: int) -> None:
    summary = encode_summary(EpisodeSummary("e", "E-v0", "r", "running", 0, 0.0, 1.0, 0.0, None))
    values = [None, None, None, "0" * 16, None, None]
    values[position] = 5.5
    for note in (
        encode_episode_note(summary, msgspec.msgpack.encode(values)),
        encode_note(b"\x05"),
    ):
        with pytest.raises(DecodeError, match="here"):
            decode_episode_note(note, episode_id="e", where="here")
