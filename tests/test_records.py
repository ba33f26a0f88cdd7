from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from jamboree_gym.arrays.layout import Group, Leaf
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.records import (
    EpisodeData,
    EpisodeOrigin,
    EpisodeSummary,
    StepData,
    Transitions,
)

FLOAT = Leaf(np.dtype(np.float32), (), "numpy")
SCHEMA = StepSchema(
    Leaf(np.dtype(np.float32), (1,), "array"),
    Leaf(np.dtype(np.int64), (), "python"),
    Group("dict", ("value",), (FLOAT,)),
)


def two_transitions() -> Transitions:
    return Transitions(
        indices=np.array([3, 4]),
        observations=np.array([[1.0], [2.0]], np.float32),
        actions=np.array([0, 1]),
        rewards=np.array([0.5, 1.5]),
        next_observations=np.array([[2.0], [3.0]], np.float32),
        terminations=np.array([False, True]),
        truncations=np.array([False, False]),
        infos=[{}, {"k": 1}],
        timestamps=np.array([10.0, 11.0]),
        annotated=np.array([False, True]),
        annotations={"value": np.array([np.nan, 0.25], np.float32)},
        schemas=[(0, SCHEMA)],
    )


@pytest.mark.parametrize(
    "kind", [StepData, Transitions, EpisodeData, EpisodeSummary, EpisodeOrigin]
)
def test_records_are_frozen(kind: type) -> None:
    record = object.__new__(kind)

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(kind)[0].name, 1)


def test_a_record_is_the_same_whether_it_was_made_by_position_or_by_name() -> None:
    values = ("e", "Env-v0", "run", "running", 0, 0.0, 1.0, 0.0, 7)
    rest = ({"lr": 0.1}, 3, "ab", "parent", 5, "other", (0.5, 0.5))
    names = [one.name for one in dataclasses.fields(EpisodeSummary)]
    by_name = EpisodeSummary(**dict(zip(names, values + rest, strict=True)))
    by_position = EpisodeSummary(*values, *rest)

    assert type(by_position) is EpisodeSummary
    assert by_position == by_name == dataclasses.replace(by_position)
    assert pickle.loads(pickle.dumps(by_position)) == by_name
    assert EpisodeSummary(*values).tags == {}
    with pytest.raises(TypeError, match="positional"):
        EpisodeSummary(*values, *rest, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        by_position.id = "another"  # type: ignore[misc]


def test_transitions_are_counted_and_iterated_oldest_first() -> None:
    transitions = two_transitions()

    steps = list(transitions)

    assert len(transitions) == 2
    assert [step.index for step in steps] == [3, 4]
    assert steps[0].next_observation.tolist() == steps[1].observation.tolist() == [2.0]
    assert steps[1].info == {"k": 1}
    assert [step.annotation for step in steps] == [{}, {"value": np.float32(0.25)}]
    assert [type(step.action) for step in steps] == [int, int]


def test_a_step_holds_python_scalars_where_they_are_promised() -> None:
    step = list(two_transitions())[1]

    assert (type(step.index), type(step.reward), type(step.timestamp)) == (int, float, float)
    assert step.terminated is True
    assert step.truncated is False


def test_records_of_arrays_can_be_compared_without_an_error() -> None:
    assert two_transitions() != two_transitions()


def test_an_episode_is_as_long_as_its_steps() -> None:
    nothing = np.zeros(0)
    flags = np.zeros(0, np.bool_)
    data = EpisodeData(
        "e", np.zeros((1, 2)), nothing, nothing, flags, flags, [{}], nothing, flags, {}
    )

    assert len(data) == 0
