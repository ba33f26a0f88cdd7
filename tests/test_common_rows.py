"""Steps that take the quick way are stored as others are, byte for byte; odd ones are not quick."""

from __future__ import annotations

import copy
import math
import threading
from collections import OrderedDict
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lengths import examples
from nested import is_same

from jamboree_gym.arrays.layout import Group, Layout, layout_of
from jamboree_gym.arrays.packing import Misfit, packer
from jamboree_gym.arrays.step_schema import StepSchema
from jamboree_gym.arrays.value_decoder import NUMBERS
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.delivery.row_writer import RowWriter
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.encoding.info_codec import InfoEncoder
from jamboree_gym.encoding.info_template import InfoTemplate
from jamboree_gym.encoding.summary_codec import Beginning
from jamboree_gym.errors import InvalidRecord
from jamboree_gym.journal.journal import Journal, JournalOwner
from jamboree_gym.recording.plain_steps import add_plain_step
from jamboree_gym.records import EpisodeOrigin, EpisodeSummary

SUMMARY = EpisodeSummary("e", "Env-v0", "run", "running", 0, 0.0, 100.0, 0.0, None)
ORIGIN = EpisodeOrigin(1, None, None, "0" * 16)
FRAME = np.arange(1200, dtype=np.uint8).reshape(20, 20, 3)
GOAL = np.array([1, math.nan, -0.0], np.float32)
MISSION = {"image": FRAME[:2, :2].copy(), "direction": 1, "mission": "go"}
NESTED = {"robot": {"arm": GOAL, "grip": (True, np.int64(2))}, "goal": GOAL}
SIGNALLING = np.array([0x7FA00001], np.uint32).view(np.float32)


def layout(value: Any) -> Layout:
    """As a space of such values says it."""
    if isinstance(value, dict):
        return Group("dict", tuple(value), tuple(map(layout, value.values())))
    if isinstance(value, tuple):
        return Group("tuple", tuple(range(len(value))), tuple(map(layout, value)))
    return layout_of(value)


def outbox(observation: Any, *, may_be_common: bool) -> StepOutbox:
    box = StepOutbox(
        "log",
        bytes(8),
        lambda _: math.inf,
        begun=Beginning.of(SUMMARY, ORIGIN),
        schema=StepSchema(layout(observation), layout_of(np.int64(1))).shared,
        lane=Journal(None, JournalOwner("0" * 16, "", 0, "ns")).lane(),
        keep=5,
        clock=lambda: 100.0 + box.rows_put,
    )
    box.may_be_common = may_be_common
    box.add_reset(observation, None)
    return box


def put(
    box: StepOutbox,
    step: tuple[Any, ...],
    add_plain_step: Any = None,
    encoder: InfoEncoder | None = None,
) -> str:
    """Put a step as the recorder does; why it is refused."""
    observation, reward, info, annotation = step
    box.packed_action = np.int64(1)
    encoder = encoder or InfoEncoder()
    if add_plain_step is not None:
        returned = observation, reward, False, False, info or {}
        if add_plain_step(box, returned, encoder.compiled, annotation):
            return ""
    info = None if info is None else encoder.encode(info)
    try:
        if not box.add_common_step(observation, reward, False, False, info, annotation):
            box.add_step(observation, reward, False, False, info, annotation)
    except InvalidRecord as error:
        return str(error)
    return ""


def stored(box: StepOutbox) -> Any:
    box.seal()
    append = box.next_append()
    assert append is not None
    return append.batches, append.blobs


def overwrite(value: Any) -> None:
    """As an environment that uses its arrays again."""
    if isinstance(value, dict):
        any(map(overwrite, value.values()))
    elif isinstance(value, (tuple, list)):
        any(map(overwrite, value))
    elif isinstance(value, np.ndarray) and value.dtype != object:
        value[...] = np.zeros((), value.dtype)


odd_parts = st.one_of(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int32, np.float32, ">f4", np.float64, np.complex64, object]),
        st.sampled_from([(), (2,), (3,), (2, 2, 3)]),
        elements=st.just(1),
    ),
    st.just(GOAL[::-1]),
    st.just(SIGNALLING),
    st.sampled_from([SIGNALLING[0], np.int8(1), np.uint64(2**64 - 1), np.float16(1), np.True_]),
    st.sampled_from([0, True, 2**63, -(2**63), 2**70, 1.5, math.nan, None, "x", "\ud800", [1], {}]),
    st.builds(object),
)


def with_part(observation: dict[str, Any], key: str, part: Any) -> dict[str, Any]:
    return {**observation, key: part}


class Array(np.ndarray):
    """As libraries subclass it."""


def other_arrays(one: np.ndarray) -> list[Any]:
    """Arrays that a row of this one cannot hold, or not as they lie in memory."""
    others = [one.astype(np.float64), one.astype(np.complex64), one.astype(object)]
    others += [one.astype(one.dtype.newbyteorder()), one.astype(">f8")]
    return [*others, one[::-1], np.asfortranarray(one), one.tolist(), one.view(Array), one[:1]]


def changed(observation: Any) -> st.SearchStrategy[Any]:
    """The observation as it is, mostly; or with one part that is odd, or other keys."""
    same = st.builds(copy.deepcopy, st.just(observation))
    if isinstance(observation, np.ndarray):
        others = other_arrays(observation)
        return st.one_of(same, st.sampled_from(others), odd_parts)
    if not isinstance(observation, dict):
        return st.one_of(same, same, same, odd_parts)
    keys, parts = st.sampled_from(list(observation)), observation.items()
    return st.one_of(
        *(same, same, same),
        st.builds(partial(with_part, observation), keys, odd_parts),
        *[changed(value).map(partial(with_part, observation, key)) for key, value in parts],
        st.builds(lambda key: {k: v for k, v in observation.items() if k != key}, keys),
        st.just({**observation, "new": 1}),
        st.just(dict(reversed(observation.items()))),
        st.just(OrderedDict(observation)),
    )


rewards = st.sampled_from(
    [0.5, 0.5, 1, True, np.float64(math.nan), np.float32(2), np.int64(3), np.int8(1), 10**400, "x"]
)
annotations = st.sampled_from(
    [
        *(None, None, None, {}, {"value": 0.5, "log_prob": -0.5}, {"value": np.float32(0.5)}),
        *({"value": SIGNALLING[0]}, {"value": GOAL}, {"value": {"a": 1}}, {"value": 2**70}),
        *({"value": 1, "greedy": True}, {"value": np.float64(1)}, {"value": np.complex64(1)}),
    ]
)
MUJOCO = {"x": np.float64(0.5), "reward_ctrl": np.float32(-0.5), "survive": 1.0, "mask": GOAL}
WALKED = {**MUJOCO, "x": np.float64(math.nan), "survive": -0.0, "mask": GOAL[::-1]}
infos = st.sampled_from([None, None, {}, {"a": 1}, MUJOCO, WALKED, {"lives": np.int8(3)}])


def check_same_bytes(first: Any, steps: list[tuple[Any, ...]]) -> None:
    """The bytes are the same, however the steps are put, and whatever becomes of the arrays."""
    ways = [(True, None), (False, None), (True, add_plain_step)]
    ways = ways if add_plain_step is not None else ways[:2]
    boxes = [outbox(first, may_be_common=is_common) for is_common, _ in ways]
    encoders = [InfoEncoder() for _ in ways]
    for step in steps:
        refusals = []
        for box, (_, add), encoder in zip(boxes, ways, encoders, strict=True):
            own = copy.deepcopy(step[0]), *step[1:]
            refusals.append(put(box, own, add, encoder))
            overwrite(own[0])
        assert "object object" in refusals[0] or len(set(refusals)) == 1
    assert all(stored(box) == stored(boxes[0]) for box in boxes[1:])


@settings(max_examples=examples(1000), suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from([FRAME, GOAL, MISSION, NESTED, (1, 2.5, np.float32(1)), 3]))
def test_a_quick_row_has_the_bytes_of_a_slow_one(data: st.DataObject, first: Any) -> None:
    usual = st.just(1.5), st.none(), st.none()
    steps = st.one_of(
        *(st.tuples(changed(first), *usual), st.tuples(changed(first), *usual)),
        st.tuples(changed(first), rewards, infos, annotations),
    )
    check_same_bytes(first, data.draw(st.lists(steps, min_size=1, max_size=6)))


@pytest.mark.parametrize("array", [FRAME, FRAME[:2, :2]], ids=["large", "small"])
@pytest.mark.parametrize("held", [lambda one: one, lambda one: {"a": one}, lambda one: (one,)])
def test_an_array_of_another_kind_is_stored_as_it_is(array: np.ndarray, held: Any) -> None:
    pack = packer(layout(held(array)))
    for other in other_arrays(array):
        is_array = type(other) is np.ndarray
        if not is_array or (other.dtype, other.shape) != (array.dtype, array.shape):
            with pytest.raises(Misfit):
                pack(held(other))
        check_same_bytes(held(array), [(held(other), 1.5, None, None)])


@pytest.mark.parametrize(
    ("observation", "reward", "info", "annotation"),
    [
        pytest.param(GOAL, 1.0, None, None, id="array"),
        pytest.param(FRAME, 1.0, None, None, id="frame"),
        pytest.param(FRAME, 1.0, {"a": 1}, {"value": 0.5}, id="frame, info, annotation"),
        pytest.param(MISSION, 1, None, None, id="dict with a text"),
        pytest.param(NESTED, np.float64(1), None, None, id="nested dict"),
        pytest.param((11, 10, np.int8(0)), np.float32(1), None, None, id="tuple"),
        pytest.param(np.float32(1), True, None, {"value": {"a": 0.5}}, id="nested annotation"),
    ],
)
def test_steps_as_environments_return_them_are_quick(
    observation: Any, reward: Any, info: dict[str, Any] | None, annotation: Any
) -> None:
    box = outbox(observation, may_be_common=True)
    put(box, (observation, reward, info, annotation))  # the first of an extent looks at more
    encoded = None if info is None else encode_value(info)

    for _ in range(3):
        box.packed_action = np.int64(1)
        assert box.add_common_step(observation, reward, False, False, encoded, annotation)


def test_numbers_of_every_kind_come_back_as_they_were() -> None:
    kinds = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
    least = [np.iinfo(kind).min for kind in kinds]
    most = [np.iinfo(kind).max for kind in kinds]
    integers = [kind(n) for bounds in (least, most) for kind, n in zip(kinds, bounds, strict=True)]
    observation = (*integers, np.float16(0.1), SIGNALLING[0], np.float64(0.1), np.True_, True, 2.5)
    box = outbox(observation, may_be_common=True)

    put(box, (observation, 1.0, None, None))

    rows = box.recent(1)
    assert rows is not None
    assert is_same(rows.observation(1), observation)


def test_an_odd_step_makes_only_the_next_ones_slow_that_are_odd() -> None:
    box = outbox(GOAL, may_be_common=True)
    put(box, (GOAL, 1.0, None, None))

    put(box, (GOAL, 1.0, None, {"value": 0.5}))  # the layout changes
    put(box, (GOAL, 1.0, None, None))

    assert box.add_common_step(GOAL, 1.0, False, False, None, {"value": 0.5})


keys = st.sampled_from(["x", "reward_ctrl", "mask", "é", "new", np.str_("x"), 1])
values = st.one_of(
    *(st.floats(), st.floats(width=32).map(np.float32), st.floats().map(np.float64)),
    *(st.integers(-(2**70), 2**70), st.text(max_size=2), st.booleans(), st.just(np.True_)),
    *(hnp.arrays(np.float32, st.sampled_from([(), (0,), (3,)])), st.just(GOAL.astype(">f4"))),
    *(st.just(GOAL[::-1]), st.just(SIGNALLING[0]), st.just(np.float64(1).view(np.complex64))),
)


@settings(max_examples=examples(1500), suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(keys, values, max_size=2), min_size=1, max_size=6))
def test_infos_one_after_the_other_are_encoded_as_each_by_itself(changes: list[Any]) -> None:
    encoder = InfoEncoder()

    for change in changes:
        for info in (MUJOCO, {**MUJOCO, **change}, change):
            assert encoder.encode(info) == (encode_value(info) if info else None)
            if encoder.compiled is not None:
                assert encoder.compiled.encode(info) in (encode_value(info), None)


def test_infos_of_numbers_have_a_template() -> None:
    template = InfoTemplate.of(MUJOCO, encode_value(MUJOCO))
    assert template is not None
    template.compiled = None  # what Python does where there is no compiler
    other = {"x": np.float64(math.inf), "reward_ctrl": SIGNALLING[0], "survive": -math.nan}
    other["mask"] = GOAL[::-1]

    assert template.encode(other) == encode_value(other)
    assert template.encode({**other, "mask": GOAL.astype(np.float64)}) is None
    assert template.encode(dict(reversed(other.items()))) is None
    assert InfoTemplate.of({"lives": 3}, encode_value({"lives": 3})) is None


@pytest.mark.compiled
@pytest.mark.parametrize("value", [1.5, *(kind(1) for kind in NUMBERS), GOAL, FRAME, FRAME[:0]])
def test_an_info_of_a_fixed_size_takes_the_compiled_way(value: Any) -> None:
    assert add_plain_step is not None
    box, encoder = outbox(GOAL, may_be_common=True), InfoEncoder()
    info = {"é": value}
    put(box, (GOAL, 1.0, info, None), None, encoder)  # the first is never taken quickly

    is_fixed = np.size(value) > 0
    assert (encoder.compiled is not None) is is_fixed
    status = add_plain_step(box, (GOAL, 1.0, False, False, info), encoder.compiled, None)

    assert (status is not None) is (is_fixed and len(encode_value(info)) <= 4096)
    if is_fixed:
        assert encoder.compiled.encode(info) == encode_value(info)


@pytest.mark.compiled
def test_a_reset_whose_info_has_other_keys_leaves_the_compiled_way_to_steps(
    open_jamboree: Any,
) -> None:
    env = open_jamboree().record(MovedEnv(), run="r")
    env.reset()
    env.step(np.int64(0))
    template = env.handler._infos.compiled
    assert template is not None

    env.reset()

    assert env.handler._infos.compiled is template


def test_what_resets_and_steps_tell_is_warned_of_once(
    open_jamboree: Any, caplog: pytest.LogCaptureFixture
) -> None:
    env = open_jamboree().record(MovedEnv(told=object()), run="r")
    for _ in range(2):
        env.reset()
        env.step(np.int64(0))
    copied = copy.deepcopy(env.handler)

    assert caplog.text.count("is recorded without what cannot be stored") == 1
    assert copied._infos._marks is copied._reset_infos._marks


def test_a_delivery_between_an_info_and_its_row_loses_no_info(
    open_jamboree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may deliver in the middle of a step."""
    jam = open_jamboree(flush_interval_s=3600)
    env = jam.record(ToldEnv(), run="r")
    env.reset()
    keep_info = RowWriter._keep_info

    def keep(box: RowWriter, info: bytes) -> int:
        at = keep_info(box, info)
        other = threading.Thread(target=jam.flush)
        other.start()
        other.join()
        return at

    monkeypatch.setattr(RowWriter, "_keep_info", keep)
    for _ in range(8):
        env.step(np.int64(0))
    monkeypatch.undo()
    jam.flush()
    told = [dict(info) for info in jam.episode(env.episode_id).data().infos]
    assert told == [{"hit": 5} if step == 5 else {} for step in range(9)]


class ToldEnv(gym.Env[np.ndarray, int]):
    """Tells an info with its fifth step."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.count = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin to count."""
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count one on."""
        self.count += 1
        info = {"hit": 5} if self.count == 5 else {}
        return np.full(4, self.count / 100, np.float32), 1.0, False, False, info


class MovedEnv(ToldEnv):
    """Tells where it is, after a step also how quickly it came there."""

    def __init__(self, **told: Any) -> None:
        super().__init__()
        self.told = told

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Tell the place."""
        return super().reset(seed=seed)[0], {"x": np.float64(0), **self.told}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Tell place and speed."""
        return *super().step(action)[:4], {"x": np.float64(1), "speed": 0.1, **self.told}
