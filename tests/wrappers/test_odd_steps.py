"""What no API promises and environments return all the same: it is kept, or refused at the call."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from recorded_envs import ACTION, CountingEnv, ScriptedEnv, play

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidRecord, UnsupportedSpace
from jamboree_gym.replay import verify

OpenJamboree = Callable[..., Jamboree]
BOX = spaces.Box(-99, 99, (1,), np.float32)
ACTIONS = np.array([0, 1])


class Raising:
    """Whatever is asked of it fails."""

    def fail(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("asked")

    __array__ = __bool__ = __float__ = __len__ = __repr__ = keys = fail


class GivingEnv(gym.Env[Any, Any]):
    """Returns what a function of the step's number says, beside that number."""

    def __init__(self, give: Callable[[int], tuple[Any, Any, Any, Any]]) -> None:
        self.observation_space, self.action_space = BOX, spaces.Discrete(2)
        self.give, self.count, self.options = give, 0, None

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.count, self.options = 0, options
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return np.full(1, self.count, np.float32), *self.give(self.count)


class GivingVectorEnv(VectorEnv[Any, Any, Any]):
    """The same for two, without episodes that end by themselves."""

    num_envs = 2

    def __init__(
        self,
        give: Callable[[int], tuple[Any, Any, Any, Any]],
        mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = BOX, spaces.Discrete(2)
        self.observation_space = batch_space(BOX, 2)
        self.action_space = batch_space(self.single_action_space, 2)
        self.give, self.count = give, 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.count, self.options = 0, options
        return np.zeros((2, 1), np.float32), {}

    def step(self, actions: Any) -> Any:
        self.count += 1
        return np.full((2, 1), self.count, np.float32), *self.give(self.count)


NEVER = np.zeros(2, bool)


def name(value: Any) -> str:
    """Of a case."""
    return type(value).__name__


def plain(_: int) -> tuple[Any, Any, Any, Any]:
    return 1.0, False, False, {}


# -- rewards ----------------------------------------------------------------------------------


def test_rewards_of_shape_n_1_are_numbers(jam: Jamboree) -> None:
    rewards = np.zeros((2, 1))

    def give(count: int) -> Any:
        rewards[:, 0] = count, -count
        return rewards, NEVER, NEVER, {} if count < 3 else {"a": np.ones(2)}

    envs = jam.record(GivingVectorEnv(give), run="n1")
    envs.reset(seed=1)
    for _ in range(4):
        envs.step(ACTIONS)
    jam.flush()

    first, second = (jam.episode(id).data().rewards.tolist() for id in envs.episode_ids)
    assert (first, second) == ([1, 2, 3, 4], [-1, -2, -3, -4])
    assert len(jam.episodes(run="n1")) == 2


def test_a_reward_of_another_shape_than_those_before_it_is_refused(jam: Jamboree) -> None:
    def give(k: int) -> Any:
        return np.ones(2 if k < 3 else 3), False, False, {}

    def give_both(k: int) -> Any:
        rewards = [np.ones(2 if k < 3 else 3), np.ones(2)]
        return rewards, NEVER, NEVER, {}

    env, envs = jam.record(GivingEnv(give)), jam.record(GivingVectorEnv(give_both))
    for recorded, action in ((env, 0), (envs, ACTIONS)):
        recorded.reset(seed=1)
        recorded.step(action)
        recorded.step(action)
        with pytest.raises(InvalidRecord, match=r"another form .* of shape \(2,\)") as caught:
            recorded.step(action)
        assert len(caught.value.returned) == 5
        recorded.step(action)
    jam.flush()

    found = [jam.episode(id) for id in (env.episode_id, *envs.episode_ids)]
    assert [one.status for one in found] == ["abandoned", "abandoned", "running"]
    assert [one.data().rewards.shape for one in found] == [(2, 2), (2, 2), (4, 2)]


def test_a_vector_environment_that_holds_one_number_is_refused_where_rewards_are_several(
    jam: Jamboree,
) -> None:
    def make() -> Any:
        env = GivingEnv(plain)
        env.reward_space = spaces.Box(0, 1, (2,))
        return gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(env), 3)

    with pytest.raises(UnsupportedSpace, match=r"reward space .*MOSyncVectorEnv"):
        jam.record(SyncVectorEnv([make]))


def test_a_wrapper_that_makes_one_number_of_several_is_recorded(jam: Jamboree) -> None:
    class Sum(gym.Wrapper):
        def step(self, action: Any) -> Any:
            observation, reward, *rest = self.env.step(action)
            return observation, float(np.sum(reward)), *rest

    inner = GivingEnv(lambda k: (np.ones(2), False, False, {}))
    inner.reward_space = spaces.Box(0, 1, (2,))
    for made in (Sum(inner), gym.wrappers.TransformReward(inner, np.sum)):
        env = jam.record(gym.wrappers.TimeLimit(made, 9))
        env.reset()
        env.step(0)
        assert jam.episode(env.episode_id).data().rewards.tolist() == [2.0]


@pytest.mark.parametrize(
    "reward", [10**400, "3", b"3", None, 1j, Raising(), [], [[1, 2]]], ids=name
)
def test_a_reward_that_is_no_number_is_refused_by_name(jam: Jamboree, reward: Any) -> None:
    env = jam.record(GivingEnv(lambda k: (reward if k == 2 else 1.0, k == 4, False, {})))
    play(env, [0])
    with pytest.raises(InvalidRecord, match="the reward"):
        env.step(0)
    env.step(0)
    env.step(0)
    jam.flush()

    episode = jam.episode(env.episode_id)
    assert (episode.status, len(episode)) == ("abandoned", 1)


# -- flags ------------------------------------------------------------------------------------

TRUE = [2, -1, "no", [0], np.array([3]), np.float32(0.5), np.bool_(True), math.nan, object()]
FALSE = [0, "", [], None, np.array([0]), np.float64(0), np.bool_(False), {}]


@pytest.mark.parametrize(("values", "is_over"), [(TRUE, True), (FALSE, False)])
def test_a_flag_is_what_bool_says(jam: Jamboree, values: list[Any], is_over: bool) -> None:
    for value in values:
        env = jam.record(GivingEnv(lambda k, value=value: (1.0, value, False, {})))
        play(env, [0])
        episode = jam.episode(env.episode_id)
        assert episode.data().terminations.tolist() == [is_over]
        assert episode.status == ("terminated" if is_over else "running")


def test_flags_of_a_vector_environment_are_what_bool_says(jam: Jamboree) -> None:
    for flags in ([2, 0], (np.array([1]), np.array([0])), np.array([[3], [0]]), ["a", ""]):
        objects = np.empty(2, object)
        objects[:] = list(flags)
        for given in (flags, objects):
            envs = jam.record(GivingVectorEnv(lambda k, given=given: (ACTIONS, NEVER, given, {})))
            envs.reset(seed=1)
            envs.step(ACTIONS)
            statuses = [jam.episode(id).status for id in envs.episode_ids]
            assert statuses == ["truncated", "running"], given


def test_a_flag_is_kept_as_it_was_at_the_call(jam: Jamboree) -> None:
    done, reward = np.zeros((), bool), np.zeros(())

    def give(count: int) -> Any:
        done[...], reward[...] = count == 3, count
        return reward, done, False, {}

    env = jam.record(GivingEnv(give))
    play(env, [0] * 3)

    data = jam.episode(env.episode_id).data()
    assert data.terminations.tolist() == [False, False, True]
    assert data.rewards.tolist() == [1, 2, 3]


@pytest.mark.parametrize("flag", [np.array([True, False]), Raising()], ids=["two", "raising"])
def test_a_flag_that_is_neither_costs_its_own_episode_alone(jam: Jamboree, flag: Any) -> None:
    env = jam.record(GivingEnv(lambda k: (1.0, flag if k == 2 else False, False, {})))
    envs = jam.record(
        GivingVectorEnv(lambda k: (ACTIONS, [flag if k == 2 else 0, 0], [0, k == 4], {}))
    )
    for recorded, action in ((env, 0), (envs, ACTIONS)):
        recorded.reset(seed=1)
        recorded.step(action)
        with pytest.raises(InvalidRecord, match="neither true nor false"):
            recorded.step(action)
        recorded.step(action)
        recorded.step(action)
    jam.flush()

    summaries = [jam.episode(id).summary for id in (env.episode_id, *envs.episode_ids)]
    assert [(one.status, one.steps) for one in summaries] == [
        ("abandoned", 1),
        ("abandoned", 1),
        ("truncated", 4),
    ]


# -- infos, options, annotations ----------------------------------------------------------------


@pytest.mark.parametrize(
    "info", ["x", [{"a": 1}], 3, Raising()], ids=["text", "list", "3", "raising"]
)
def test_an_info_that_is_no_dict_leaves_no_gap(jam: Jamboree, info: Any) -> None:
    env = jam.record(GivingEnv(lambda k: (1.0, k == 4, False, info if k == 2 else {})))
    play(env, [0])
    with pytest.raises(InvalidRecord, match=r"for info, not|the info cannot be recorded") as caught:
        env.step(0)
    assert caught.value.returned[-1] is info
    env.step(0)
    env.step(0)

    summary = jam.episode(env.episode_id).summary
    assert (summary.status, summary.steps) == ("abandoned", 1)


def test_an_object_of_which_everything_fails_is_a_mark_in_an_info(jam: Jamboree) -> None:
    env = jam.record(GivingEnv(lambda k: (1.0, False, False, {"a": 1, "b": [Raising(), 2]})))
    play(env, [0])

    kept = jam.episode(env.episode_id).data().infos[1]
    assert kept == {"a": 1, "b": [f"<not recorded: {__name__}.Raising>", 2]}


def test_a_frame_that_cannot_be_rendered_leaves_no_gap(jam: Jamboree) -> None:
    class Unseen(CountingEnv):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as gymnasium.Env has it
        render_mode = "rgb_array"

        def render(self) -> Any:
            return np.full((2, 2, 3), 9 // (2 - self.count), np.uint8)

    env = jam.record(Unseen(length=4), record_frames=1)
    play(env, [ACTION])
    with pytest.raises(InvalidRecord, match="ZeroDivisionError") as caught:
        env.step(ACTION)
    assert caught.value.returned[0].tolist() == [2, 0.5]
    env.step(ACTION)
    env.step(ACTION)

    episode = jam.episode(env.episode_id)
    assert (episode.status, len(episode)) == ("abandoned", 2)


def test_more_values_than_a_step_has_leave_no_gap(jam: Jamboree) -> None:
    class Six(CountingEnv):
        def step(self, action: Any) -> Any:
            result = super().step(action)
            return (*result, "more") if self.count == 2 else result

    env = jam.record(Six(length=4))
    play(env, [ACTION])
    with pytest.raises(InvalidRecord, match="step returned") as caught:
        env.step(ACTION)
    assert caught.value.returned[-1] == "more"
    env.step(ACTION)
    env.step(ACTION)

    assert jam.episode(env.episode_id).status == "abandoned"


@pytest.mark.parametrize("options", ["level-1", 7, ["a", 1], np.arange(3)], ids=name)
def test_options_that_are_no_dict_are_kept_and_reach_the_environment(
    jam: Jamboree, options: Any
) -> None:
    inner, inner_vector = GivingEnv(plain), GivingVectorEnv(plain)
    env, envs = jam.record(inner), jam.record(inner_vector)
    env.reset(seed=1, options=options)
    envs.reset(seed=1, options=options)

    assert inner.options is inner_vector.options is options
    for episode_id in (env.episode_id, *envs.episode_ids):
        kept = jam.episode(episode_id).origin.options
        assert np.array_equal(kept, options)
        assert type(kept) is type(options)


def test_options_that_cannot_be_stored_are_a_mark(jam: Jamboree) -> None:
    inner = GivingEnv(plain)
    env = jam.record(inner)
    env.reset(options=Raising())
    env.step(0)

    assert isinstance(inner.options, Raising)
    assert jam.episode(env.episode_id).origin.options == f"<not recorded: {__name__}.Raising>"


class LevelEnv(GivingEnv):
    """Its options are the text that it sees."""

    def __init__(self) -> None:
        super().__init__(plain)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.full(1, len(options), np.float32), {}


def test_an_episode_begun_with_a_text_as_options_happens_again(jam: Jamboree) -> None:
    gym.register("Level-v0", LevelEnv, disable_env_checker=True, order_enforce=False)
    env = jam.record(gym.make("Level-v0"), run="levels")
    env.reset(seed=1, options="level-1")
    env.step(0)
    env.close()
    report = verify(jam.episodes(run="levels"))[0]
    gym.registry.pop("Level-v0")

    assert jam.episode(env.episode_id).data().observations[0] == [7]
    assert report.error is None
    assert not report.mismatch


def test_an_annotation_that_raises_is_refused_by_name(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    with pytest.raises(InvalidRecord, match="the annotation cannot be recorded"):
        env.annotate(value=Raising())
    env.step(ACTION)

    assert len(jam.episode(env.episode_id)) == 1


def test_nothing_that_was_given_is_looked_at_again(jam: Jamboree) -> None:
    seed, options = [1, 2], {"x": np.zeros(2), "y": bytearray(b"a")}
    said, seen = np.zeros(2), memoryview(bytearray(3))
    info = {"x": np.zeros(2), "y": [1]}

    class Seeded(GivingEnv):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            return np.zeros(3, np.uint8), {}

        def step(self, action: Any) -> Any:
            return seen, 1.0, False, False, info

    env = jam.record(Seeded(plain))
    env.reset(seed=seed, options=options)
    env.annotate(said=said, more=[said])
    env.step(0)
    seed.append(3)
    options["x"] += 1
    said += 1
    seen[:] = b"abc"
    info["x"] += 1
    info["y"].append(2)
    env.step(0)

    episode = jam.episode(env.episode_id)
    data = episode.data()
    assert episode.origin.seed == episode.summary.seed == [1, 2]
    assert episode.origin.options["x"].tolist() == [0, 0]
    assert data.annotations["said"][0].tolist() == [0, 0]
    assert np.array(data.observations[1]).tolist() == [0, 0, 0]
    assert data.infos[1]["x"].tolist() == [0, 0]
    assert data.infos[1]["y"] == [1]


# -- what libraries raise ------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["observation", "action"])
def test_what_a_conversion_raises_is_the_cause_of_the_refusal(jam: Jamboree, part: str) -> None:
    odd = Raising()
    env = jam.record(ScriptedEnv([np.zeros(2), odd, np.zeros(2)]))
    env.reset()
    with pytest.raises(InvalidRecord, match=f"the {part} cannot be recorded") as caught:
        env.step(odd if part == "action" else ACTION)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    env.step(ACTION)

    assert jam.episode(env.episode_id).status == "abandoned"


def test_a_scalar_of_a_subclass_is_an_observation(jam: Jamboree) -> None:
    class Metres(np.float64):
        pass

    env = jam.record(ScriptedEnv([np.zeros(2), Metres(2.5)]))
    play(env, [ACTION])

    assert next(iter(jam.episode(env.episode_id).steps())).next_observation == 2.5


# -- tensors -------------------------------------------------------------------------------------


@pytest.mark.torch
def test_tensors_that_need_a_gradient_are_kept_by_their_value(jam: Jamboree) -> None:
    import torch

    action = torch.nn.Linear(1, 2)(torch.ones(1))
    weight = torch.tensor(2.0, requires_grad=True)
    got: list[Any] = []

    class Learning(CountingEnv):
        def step(self, action: Any) -> Any:
            got.append(action)
            flag = torch.tensor(self.count == 2)
            return action * weight, weight * 3, flag, torch.tensor([False]), {}

    env = jam.record(Learning(length=9))
    env.reset()
    env.step(action)

    data = jam.episode(env.episode_id).data()
    assert got[0] is action
    assert np.array_equal(data.actions[0], action.detach().numpy())
    assert np.array_equal(data.observations[1], 2 * action.detach().numpy())
    assert data.rewards.tolist() == [6.0]


@pytest.mark.torch
def test_a_vector_environment_of_tensors_is_recorded_as_it_returned_them(jam: Jamboree) -> None:
    import torch

    actions = torch.nn.Linear(1, 1)(torch.ones(2, 1))
    buffer, got = torch.zeros(2, requires_grad=False), list[Any]()

    class Tensors(GivingVectorEnv):
        def step(self, actions: Any) -> Any:
            got.append(actions)
            self.count += 1
            buffer[:] = self.count
            ends = torch.tensor([self.count == 2, False])
            return torch.full((2, 1), self.count), actions.sum(1), ends, buffer > 9, {}

    inner = Tensors(plain)
    inner.single_action_space = BOX
    inner.action_space = batch_space(BOX, 2)
    envs = jam.record(inner)
    envs.reset(seed=1)
    envs.step(actions)
    envs.step(actions)

    first, second = (jam.episode(id) for id in envs.episode_ids)
    assert got == [actions, actions]
    assert first.data().rewards.tolist() == [actions[0, 0].item()] * 2
    assert np.array_equal(second.data().actions[0], actions[1].detach().numpy())
    assert (first.status, second.status) == ("terminated", "running")


# -- SAME_STEP ------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_mask", [True, False])
def test_what_is_said_of_an_end_is_not_in_the_infos_of_the_others(
    jam: Jamboree, with_mask: bool
) -> None:
    def give(count: int) -> Any:
        infos = {"final_obs": np.full((2, 1), 7.0, np.float32), "final_info": {"a": np.ones(2)}}
        if with_mask:
            infos |= {"_final_obs": np.ones(2, bool), "_final_info": np.ones(2, bool)}
        ends = np.array([count == 2, False])
        return np.ones(2), ends, NEVER, {**infos, "own": np.array([count, -count])}

    envs = jam.record(GivingVectorEnv(give, AutoresetMode.SAME_STEP), run="same")
    envs.reset(seed=1)
    for _ in range(3):
        envs.step(ACTIONS)

    ended, following, other = sorted(
        jam.episodes(run="same"), key=lambda one: (one.summary.vector_index, one.id)
    )
    assert ended.data().observations[-1] == [7.0]
    assert ended.data().infos[-1] == {"a": 1.0}
    assert [info.keys() for info in following.data().infos] == [{"own"}, {"own"}]
    assert [info.keys() for info in other.data().infos] == [set(), {"own"}, {"own"}, {"own"}]


if find_spec("ale_py.vector_env"):  # not in the lowest version

    def test_the_infos_of_ale_s_vector_environment_hold_no_frames(jam: Jamboree) -> None:
        gym.register_envs(ale_py)
        envs = gym.make_vec(
            "ALE/Breakout-v5",
            num_envs=2,
            vectorization_mode="vector_entry_point",
            autoreset_mode=AutoresetMode.SAME_STEP,
            max_num_frames_per_episode=24,
            noop_max=0,
        )
        recorded = jam.record(envs, run="ale")
        recorded.reset(seed=1)
        recorded.step(np.zeros(2, int))
        recorded.reset(options={"reset_mask": np.array([True, False])})
        for _ in range(7):
            *_, infos = recorded.step(np.zeros(2, int))
        recorded.close()

        episodes = list(jam.episodes(run="ale"))
        assert infos.keys() >= {"lives"}
        assert "truncated" in [one.status for one in episodes]
        for episode in episodes:
            assert not any(
                {"final_obs", "final_info"} & info.keys() for info in episode.data().infos
            )
