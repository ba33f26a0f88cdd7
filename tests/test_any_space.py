"""Any value of any space comes back as it was: in value, dtype, shape and type."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import GraphInstance
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lengths import examples
from nested import NESTED, is_same
from recorded_envs import ScriptedEnv, play
from stored import at

from jamboree_gym import Jamboree
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.encoding.batch_format import decode_batch
from jamboree_gym.encoding.bulk_decoder import decode_batches
from jamboree_gym.encoding.rows import Rows
from jamboree_gym.encoding.summary_codec import Beginning
from jamboree_gym.environment.spaces import layout_of_space
from jamboree_gym.journal.journal import Journal, JournalOwner
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary

Case = tuple[spaces.Space, st.SearchStrategy[Any]]
"""A space and a strategy for values in it, hard ones included."""

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
SHAPES = ((), (1,), (3,), (2, 2), (0,), (2, 0))


def box(dtype: str, shape: tuple[int, ...]) -> Case:
    if dtype in FLOATS:
        low, high = -np.inf, np.inf
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return spaces.Box(low, high, shape, np.dtype(dtype).type), hnp.arrays(dtype, shape)


def discrete(n: int, start: int) -> Case:
    numbers = st.integers(start, start + n - 1)
    return spaces.Discrete(n, start=start), numbers | numbers.map(np.int64)


def multi_binary(shape: tuple[int, ...]) -> Case:
    return spaces.MultiBinary(shape), hnp.arrays("int8", shape, elements=st.integers(0, 1))


def multi_discrete(shape: tuple[int, ...]) -> Case:
    space = spaces.MultiDiscrete(np.full(shape, 5))
    return space, hnp.arrays("int64", shape, elements=st.integers(0, 4))


def text(_: Any) -> Case:
    return spaces.Text(20), st.text(max_size=20)


def graph(_: Any) -> Case:
    nodes = hnp.arrays("float32", hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=3))
    links = st.none() | hnp.arrays("int32", st.tuples(st.integers(0, 3), st.just(2)))
    edges = st.none() | hnp.arrays("int64", st.tuples(st.integers(0, 3)))
    values = st.builds(GraphInstance, nodes, edges, links)
    return spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3)), values


def a_dict(cases: dict[str, Case]) -> Case:
    space = spaces.Dict({name: space for name, (space, _) in cases.items()})
    return space, st.fixed_dictionaries({name: values for name, (_, values) in cases.items()})


def a_tuple(cases: list[Case]) -> Case:
    return spaces.Tuple([space for space, _ in cases]), st.tuples(*(values for _, values in cases))


def sequence(case: Case) -> Case:
    space, values = case
    return spaces.Sequence(space), st.lists(values, max_size=3).map(tuple)


def stacked(dtype: str) -> Case:
    space, _ = box(dtype, (2,))
    values = hnp.arrays(dtype, st.tuples(st.integers(0, 4), st.just(2)))
    return spaces.Sequence(space, stack=True), values


def one_of(cases: list[Case]) -> Case:
    choices = [
        st.tuples(st.just(np.int64(position)), values) for position, (_, values) in enumerate(cases)
    ]
    return spaces.OneOf([space for space, _ in cases]), st.one_of(choices)


leaves = st.one_of(
    st.builds(box, st.sampled_from(FLOATS + INTEGERS), st.sampled_from(SHAPES)),
    st.builds(discrete, st.integers(1, 9), st.sampled_from([0, -3, 2**40])),
    st.builds(multi_binary, st.sampled_from([(3,), (2, 2)])),
    st.builds(multi_discrete, st.sampled_from([(2,), (2, 2)])),
    st.builds(text, st.none()),
    st.builds(graph, st.none()),
    st.builds(stacked, st.sampled_from(FLOATS + INTEGERS)),
)
names = st.text(min_size=1, max_size=5)
cases = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(names, inner, max_size=3).map(a_dict),
        st.lists(inner, max_size=3).map(a_tuple),
        inner.map(sequence),
        st.lists(inner, min_size=1, max_size=3).map(one_of),
    ),
    max_leaves=5,
)


def is_same_or_array(one: Any, other: Any) -> bool:
    """Equal, but where an array was expected a list or tuple may have become one."""
    if isinstance(other, dict) and isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same_or_array(one[k], other[k]) for k in one)
    if isinstance(other, (list, tuple)) and isinstance(one, np.ndarray):
        return is_same(one, np.asarray(other))
    if isinstance(other, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        return all(map(is_same_or_array, one, other))
    return is_same(one, other)


def through_the_store(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    observations: list[Any],
    actions: list[Any],
    sealed_after: int,
) -> Rows:
    """What becomes of an episode that is put, sealed in two parts, and decoded."""
    schema = StepSchema(layout_of_space(observation_space), layout_of_space(action_space))
    summary = EpisodeSummary("e", "Env-v0", "run", "running", 0, 0.0, 100.0, 0.0, None)
    origin = EpisodeOrigin(1, None, None, "0" * 16)
    box = StepOutbox(
        "log",
        bytes(8),
        lambda _: math.inf,
        begun=Beginning.of(summary, origin),
        schema=schema,
        lane=Journal(None, JournalOwner("0" * 16, "", 0, "ns")).lane(),
        keep=5,
    )
    box.add_reset(observations[0], None)
    for k, action in enumerate(actions):
        if k == sealed_after:
            box.seal()
        box.set_action(action)
        box.add_step(observations[k + 1], 0.0, False, False, None)
    box.seal()
    append = box.next_append()
    assert append is not None
    batches = [decode_batch(batch, where="log") for batch in append.batches]

    def find(name: str) -> StepSchema:
        return StepSchema.from_blob(append.blobs[name], where=name)

    return Rows.concatenate([decode_batches([batch], find, where="log") for batch in batches])


@pytest.mark.deep
@pytest.mark.timeout(600)  # cut off in the middle, it would be called flaky
@settings(max_examples=examples(2000), suppress_health_check=list(HealthCheck))
@given(st.data(), cases, cases, st.integers(0, 4))
def test_values_of_any_space_come_back_as_they_were(
    data: st.DataObject, observed: Case, acted: Case, sealed_after: int
) -> None:
    observations = data.draw(st.lists(observed[1], min_size=2, max_size=5))
    actions = [data.draw(acted[1]) for _ in observations[1:]]

    rows = through_the_store(observed[0], acted[0], observations, actions, sealed_after)

    assert len(rows) == len(observations)
    for k, observation in enumerate(observations):
        assert is_same(rows.observation(k), observation)
    for k, action in enumerate(actions):
        assert is_same(rows.action(k + 1), action)


@pytest.mark.deep
@settings(max_examples=examples(300), suppress_health_check=list(HealthCheck))
@given(st.data(), st.lists(cases, min_size=2, max_size=4))
def test_values_that_change_their_space_in_the_episode_come_back_as_they_were(
    data: st.DataObject, several: list[Case]
) -> None:
    observations = [data.draw(values) for _, values in several]
    space = several[0][0]

    rows = through_the_store(space, spaces.Discrete(2), observations, [0] * (len(several) - 1), 1)

    for k, observation in enumerate(observations):
        assert is_same_or_array(rows.observation(k), observation)


def record_samples(jam: Jamboree, steps: int = 20) -> tuple[gym.Env, list[Any], list[Any]]:
    NESTED.seed(1)
    observations = [NESTED.sample() for _ in range(steps + 1)]
    env = ScriptedEnv(observations=observations)
    env.observation_space = env.action_space = NESTED
    recorded = jam.record(env)
    actions = [NESTED.sample() for _ in range(steps)]
    play(recorded, actions)
    return recorded, observations, actions


@pytest.mark.parametrize("flushed", [True, False])
def test_an_episode_of_nested_spaces_is_read_as_arrays_and_step_by_step(
    jam: Jamboree, flushed: bool
) -> None:
    env, observations, actions = record_samples(jam)
    episode = jam.episode(env.episode_id)
    recent = episode.recent(5) if flushed else env.handler.recent(5)

    data, steps = episode.data(), list(episode.steps())

    assert data.observations["camera"].shape == (21, 4, 4, 3)
    assert data.observations["joints"][0].dtype == np.float32
    assert data.actions["joints"][1].shape == (20,)
    assert data.observations["say"].tolist() == [value["say"] for value in observations]
    for k, step in enumerate(steps):
        assert is_same(step.observation, observations[k])
        assert is_same(step.next_observation, observations[k + 1])
        assert is_same(step.action, actions[k])
    assert all(map(is_same, [step.action for step in recent], actions[-5:]))


def test_an_episode_of_nested_spaces_survives_the_backup(jam: Jamboree) -> None:
    env, observations, _ = record_samples(jam)
    jam.backup.flush()
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(env.episode_id)))
    jam.backup.restore()

    steps = list(jam.episode(env.episode_id).steps())

    assert all(map(is_same, [step.observation for step in steps], observations))


def test_a_shape_that_changes_at_every_step_costs_few_batches(jam: Jamboree) -> None:
    observations = [np.zeros(k % 7) for k in range(501)]
    env = jam.record(ScriptedEnv(observations=observations))
    play(env, [np.zeros(2, np.float32)] * 500)

    episode = jam.episode(env.episode_id)

    assert all(map(is_same, [step.observation for step in episode.steps()], observations))
    assert jam.redis.llen(at(jam, jam._connection.keyspace.episode(env.episode_id))) < 30
