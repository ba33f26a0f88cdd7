"""`RecordEpisodes`: what it keeps, and that nobody notices it."""

from __future__ import annotations

import enum
import gc
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from processes import wait_until
from recorded_envs import (
    ACTION,
    ActionChangingEnv,
    CountingEnv,
    DiscreteEnv,
    FailingEnv,
    ReusingEnv,
    ScriptedEnv,
    play,
)
from stored import at
from warm import run_warm

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.errors import (
    InvalidArgument,
    InvalidRecord,
    JamboreeClosed,
    UnsavedRecords,
    UnsupportedSpace,
)
from jamboree_gym.replay import verify
from jamboree_gym.wrappers import RecordEpisodes

OpenJamboree = Callable[..., Jamboree]


# -- nobody notices it ------------------------------------------------------------------------


def test_what_the_environment_returns_is_returned_itself(jam: Jamboree) -> None:
    env = ScriptedEnv(observations=[np.zeros(2)] * 2, infos=[{"a": 1}, {"b": object}])
    recorded = jam.record(env)

    first, info = recorded.reset()
    second, *_, step_info = recorded.step(ACTION)

    assert first is env.observations[0]
    assert second is env.observations[1]
    assert info is env.infos[0]
    assert step_info is env.infos[1]


TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
ENVIRONMENTS = ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", TAXI, "Blackjack-v1"]


@pytest.mark.parametrize("seed", [7, None])
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_trajectory_is_the_one_without_a_recorder(
    jam: Jamboree, env_id: str, seed: int | None
) -> None:
    plain, recorded = gym.make(env_id), jam.record(gym.make(env_id))
    plain.reset(seed=3)
    recorded.reset(seed=3)
    plain.action_space.seed(4)
    actions = [plain.action_space.sample() for _ in range(100)]

    assert repr(played(recorded, actions, seed)) == repr(played(plain, actions, seed))
    assert recorded.np_random.bit_generator.state == plain.np_random.bit_generator.state


def played(env: gym.Env[Any, Any], actions: list[Any], seed: int | None) -> list[Any]:
    """All that comes back from these actions, begun with the seed and reset where it has to be."""
    returned: list[Any] = [env.reset(seed=seed)]
    for action in actions:
        returned.append(env.step(action))
        if returned[-1][2] or returned[-1][3]:
            returned.append(env.reset())
    return returned


@pytest.mark.filterwarnings("ignore:.*WARN:UserWarning")  # about bounds, and being wrapped at all
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_gymnasiums_own_checker_is_content(jam: Jamboree, env_id: str) -> None:
    env = jam.record(gym.make(env_id, disable_env_checker=True).unwrapped)

    check_env(env, skip_render_check=True)


def test_the_spec_stays_as_it_was_and_makes_the_environment_again(jam: Jamboree) -> None:
    env = gym.wrappers.FrameStackObservation(gym.make("Pendulum-v1"), 2)
    recorded = jam.record(env)

    assert recorded.spec is env.spec
    assert json.loads(recorded.spec.to_json())["id"] == "Pendulum-v1"
    assert recorded.spec.make().observation_space == env.observation_space
    assert gym.make(recorded.spec).observation_space == env.observation_space


def test_an_environment_without_spec_has_none_afterwards(jam: Jamboree) -> None:
    assert jam.record(CountingEnv()).spec is None


def test_attributes_of_the_environment_are_reached_through_it(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=17))

    assert env.get_wrapper_attr("length") == 17
    assert env.unwrapped.length == 17
    assert env.has_wrapper_attr("length")
    assert env.has_wrapper_attr("run")
    assert not env.has_wrapper_attr("size")
    assert env.set_wrapper_attr("length", 1)
    assert env.unwrapped.length == 1


# -- what it keeps ----------------------------------------------------------------------------


def test_all_that_was_returned_is_read_back(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    play(env, [ACTION, -ACTION, ACTION])

    data = jam.episode(env.episode_id).data()

    assert data.observations.tolist() == [[0, 0.5], [1, 0.5], [2, 0.5], [3, 0.5]]
    assert data.actions.tolist() == [[0.25, -0.5], [-0.25, 0.5], [0.25, -0.5]]
    assert data.rewards.tolist() == [1, 2, 3]
    assert data.terminations.tolist() == [False, False, True]
    assert data.truncations.tolist() == [False, False, False]


def test_an_observation_buffer_that_is_used_again_is_recorded_right(jam: Jamboree) -> None:
    env = jam.record(ReusingEnv())
    play(env, [ACTION] * 3)

    observations = jam.episode(env.episode_id).data().observations

    assert observations[:, 0].tolist() == [0, 1, 2, 3]


def test_an_action_that_the_environment_changes_is_recorded_as_given(jam: Jamboree) -> None:
    env = jam.record(ActionChangingEnv())
    play(env, [ACTION.copy()])

    assert jam.episode(env.episode_id).data().actions.tolist() == [[0.25, -0.5]]


def test_a_list_as_action_is_recorded_as_given(jam: Jamboree) -> None:
    env = jam.record(ActionChangingEnv())
    action = [0.25, -0.5]
    env.env.step = lambda given: (given.clear(), CountingEnv.step(env.unwrapped, given))[1]
    play(env, [action])

    assert jam.episode(env.episode_id).data().actions.tolist() == [[0.25, -0.5]]


def test_options_that_the_environment_changes_are_recorded_as_given(jam: Jamboree) -> None:
    class PoppingEnv(CountingEnv):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            options["level"].pop("name")
            return super().reset(seed=seed)

    env = jam.record(PoppingEnv())
    env.reset(options={"level": {"name": "maze"}})

    assert jam.episode(env.episode_id).origin.options == {"level": {"name": "maze"}}


def test_options_that_cannot_be_stored_leave_a_mark(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset(options={"level": 3, "rule": len})

    options = jam.episode(env.episode_id).origin.options

    assert options == {"level": 3, "rule": "<not recorded: builtins.builtin_function_or_method>"}


def test_seed_run_and_tags_are_kept(jam: Jamboree) -> None:
    env = jam.record(gym.make("CartPole-v1"), run="first", tags={"lr": 3e-4, "layers": [1, 2]})
    env.reset(seed=12)

    summary = jam.episode(env.episode_id).summary

    assert (summary.seed, summary.run, summary.env_id) == (12, "first", "CartPole-v1")
    assert summary.tags == {"lr": 3e-4, "layers": [1, 2]}


def test_a_run_without_name_gets_that_of_the_jamboree(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()

    assert jam.episode(env.episode_id).summary.run == jam._connection.own_run


def test_tags_that_change_later_stay_as_they_were(jam: Jamboree) -> None:
    tags = {"layers": [1]}
    env = jam.record(CountingEnv(), tags=tags)
    tags["layers"].append(2)
    env.reset()

    assert jam.episode(env.episode_id).summary.tags == {"layers": [1]}


def test_a_tag_that_cannot_be_stored_is_named(jam: Jamboree) -> None:
    with pytest.raises(InvalidRecord, match="tags: 'policy'"):
        jam.record(CountingEnv(), tags={"policy": object()})


def test_a_run_that_is_no_name_is_refused(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match="run=3: give a text"):
        jam.record(CountingEnv(), run=3)


def test_summary_tells_length_and_return(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    play(env, [ACTION] * 3)

    summary = jam.episode(env.episode_id).summary

    assert (summary.steps, summary.episode_return) == (3, 6.0)
    assert 0 < summary.elapsed_s < 60


def test_provenance_names_versions_and_spaces(jam: Jamboree) -> None:
    env = jam.record(gym.make("CartPole-v1"))
    env.reset()

    provenance = jam.episode(env.episode_id).provenance

    assert provenance["versions"]["gymnasium"] == gym.__version__
    assert provenance["action_space"]["n"] == 2
    assert provenance["env_spec"]["id"] == "CartPole-v1"


def test_timestamps_rise(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=500))
    play(env, [ACTION] * 500)

    assert (np.diff(jam.episode(env.episode_id).data().timestamps) > 0).all()


# -- layouts that are not what the space says -------------------------------------------------


def test_float64_where_the_space_says_float32_is_kept(jam: Jamboree) -> None:
    env = jam.record(ScriptedEnv(observations=[np.array([0.1, 0.2]), np.array([0.3, 0.4])]))
    play(env, [ACTION])

    observations = jam.episode(env.episode_id).data().observations

    assert observations.dtype == np.float64
    assert observations.tolist() == [[0.1, 0.2], [0.3, 0.4]]


def test_a_dtype_that_changes_in_the_episode_loses_nothing(jam: Jamboree) -> None:
    seen = [np.array([0.1, 0.2], np.float32), np.array([0.1, 0.2]), np.array([1, 2], np.float32)]
    env = jam.record(ScriptedEnv(observations=seen))
    play(env, [ACTION, ACTION])

    observations = jam.episode(env.episode_id).data().observations

    assert observations.dtype == np.float64
    assert observations.tolist() == [value.tolist() for value in seen]


def test_a_shape_that_changes_in_the_episode_is_read_as_objects(jam: Jamboree) -> None:
    env = jam.record(ScriptedEnv(observations=[np.zeros(2), np.zeros(3), np.zeros(2)]))
    play(env, [ACTION, ACTION])

    observations = jam.episode(env.episode_id).data().observations

    assert [value.shape for value in observations] == [(2,), (3,), (2,)]


def test_python_and_numpy_actions_share_a_column(jam: Jamboree) -> None:
    env = jam.record(DiscreteEnv(length=6))
    play(env, [0, np.int64(1), np.int64(2), 2, np.int64(1), 0])

    rows = jam.episode(env.episode_id)._rows()

    assert rows.actions[1:].tolist() == [0, 1, 2, 2, 1, 0]
    assert [type(rows.action(k)) for k in range(1, 7)] == [int, *[np.int64] * 2, int, np.int64, int]
    (log,) = jam._connection.store.whole([jam._connection.keyspace.episode(env.episode_id)])
    assert len(log) == 2  # a head and one frame


@pytest.mark.parametrize("reward", [np.float32(0.5), np.array(0.5), np.array([0.5]), 1, True])
def test_rewards_of_any_numeric_type_are_kept(jam: Jamboree, reward: Any) -> None:
    env = jam.record(ScriptedEnv(rewards=[reward]))
    play(env, [ACTION])

    assert jam.episode(env.episode_id).data().rewards.tolist() == [float(np.asarray(reward).item())]


@pytest.mark.parametrize("reward", [None, "much", np.array([1.0, 2.0])], ids=str)
def test_a_reward_that_is_no_number_ends_the_recording(jam: Jamboree, reward: Any) -> None:
    env = jam.record(ScriptedEnv(rewards=[1.0, reward, 1.0]))
    play(env, [ACTION])
    with pytest.raises(InvalidRecord, match="the reward"):
        env.step(ACTION)
    env.step(ACTION)

    summary = jam.episode(env.episode_id).summary

    assert (summary.steps, summary.status) == (1, "abandoned")


# -- how it ended -----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_status_tells_how_it_ended(jam: Jamboree, ending: str) -> None:
    env = jam.record(CountingEnv(ending=ending))
    play(env, [ACTION] * 3)

    assert jam.episode(env.episode_id).status == ending


def test_an_episode_that_goes_on_is_running(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    play(env, [ACTION])

    assert jam.episode(env.episode_id).status == "running"


def test_a_reset_before_the_end_abandons(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    play(env, [ACTION])
    episode = jam.episode(env.episode_id)
    jam.flush()
    env.reset()

    assert episode.status == "abandoned"


def test_a_close_before_the_end_abandons(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    play(env, [ACTION])
    jam.flush()
    env.close()

    assert jam.episode(env.episode_id).status == "abandoned"


def test_an_episode_without_steps_is_read_verified_backed_up_and_restored(
    jam: Jamboree,
) -> None:
    env = jam.record(gym.make("CartPole-v1"))
    env.reset(seed=1)
    env.close()
    episode = jam.episode(env.episode_id)
    jam.backup.flush()
    jam.redis.delete(at(jam, jam._connection.keyspace.episode(episode.id)))
    jam.backup.restore()

    assert episode.data().observations.shape == (1, 4)
    assert len(episode.data()) == len(episode.steps()) == len(episode.recent(5)) == 0
    assert list(episode.tail()) == []
    assert episode.status == "abandoned"
    assert verify(episode)
    assert episode


def test_a_step_after_the_end_is_not_recorded(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    play(env, [ACTION] * 5)

    assert len(jam.episode(env.episode_id).data()) == 3


def test_an_error_in_the_environment_leaves_what_came_before(jam: Jamboree) -> None:
    env = jam.record(FailingEnv())
    play(env, [ACTION])
    with pytest.raises(RuntimeError, match="fell over"):
        env.step(ACTION)
    env.close()
    episode = jam.episode(env.episode_id)

    assert len(episode.data()) == 1
    assert episode.status == "abandoned"


def test_the_environment_may_be_closed_first(open_jamboree: OpenJamboree) -> None:
    jam, reader = open_jamboree(), open_jamboree()
    env = jam.record(CountingEnv())
    play(env, [ACTION])
    env.close()
    jam.close()

    assert reader.episode(env.episode_id).status == "abandoned"


def test_the_jamboree_may_be_closed_first(open_jamboree: OpenJamboree) -> None:
    jam, reader = open_jamboree(), open_jamboree()
    env = jam.record(CountingEnv())
    play(env, [ACTION])
    jam.close()
    env.close()

    assert reader.episode(env.episode_id).status == "abandoned"
    assert len(reader.episode(env.episode_id)) == 1


def test_every_step_after_the_jamboree_was_closed_says_so(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    env = jam.record(CountingEnv())
    env.reset()
    jam.close()

    for _ in range(2):
        with pytest.raises(JamboreeClosed):
            env.step(ACTION)


# -- infos ------------------------------------------------------------------------------------


def recorded_infos(jam: Jamboree, infos: list[dict[str, Any]], **options: Any) -> Any:
    env = jam.record(ScriptedEnv(infos=infos), **options)
    play(env, [ACTION] * (len(infos) - 1))
    return jam.episode(env.episode_id).data().infos


def test_infos_come_back_with_their_types(jam: Jamboree) -> None:
    info = {"n": np.float32(0.5), "nested": {"pair": (1, 2), "ids": {3, 4}}, "mask": None}

    reset_info, step_info = recorded_infos(jam, [{}, info])

    assert reset_info == {}
    assert step_info == info
    assert type(step_info["n"]) is np.float32


def test_an_array_in_an_info_is_kept_as_it_was_then(jam: Jamboree) -> None:
    buffer = np.zeros(2, np.uint8)

    class CountingInfoEnv(CountingEnv):
        def info(self) -> dict[str, Any]:
            buffer[:] = self.count
            return {"buffer": buffer}

    env = jam.record(CountingInfoEnv())
    play(env, [ACTION] * 3)

    infos = jam.episode(env.episode_id).data().infos

    assert [info["buffer"].tolist() for info in infos] == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_what_an_info_cannot_keep_leaves_a_mark_and_one_warning(
    jam: Jamboree, caplog: pytest.LogCaptureFixture
) -> None:
    info = {"good": 1, "deep": {"list": [1, object()], "other": 2}}

    with caplog.at_level(logging.WARNING, "jamboree_gym"):
        infos = recorded_infos(jam, [info, info, info])

    mark = "<not recorded: builtins.object>"
    assert infos == [{"good": 1, "deep": {"list": [1, mark], "other": 2}}] * 3
    assert len(caplog.records) == 1


def test_an_info_that_holds_itself_leaves_a_mark(jam: Jamboree) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    gc.collect()  # else a client that is garbage may be closed at the deepest call, and fail

    infos = recorded_infos(jam, [{"loop": loop, "good": 1}])

    assert infos == [{"loop": "<not recorded: builtins.dict>", "good": 1}]


def test_an_info_with_keys_that_are_no_strings_comes_back(jam: Jamboree) -> None:
    info = {0: {"agent": np.int8(3)}, (1, "a"): None, None: [True, 1, 1.0]}

    assert repr(recorded_infos(jam, [info])[0]) == repr(info)


def test_a_graph_in_an_info_comes_back_as_a_graph(jam: Jamboree) -> None:
    graph = spaces.GraphInstance(np.zeros((2, 3), np.float32), None, None)

    (info,) = recorded_infos(jam, [{"graph": graph}])

    assert type(info["graph"]) is spaces.GraphInstance
    assert info["graph"].nodes.dtype == np.float32


def test_keys_of_infos_may_come_and_go(jam: Jamboree) -> None:
    infos = [{"a": 1}, {}, {"b": np.zeros(2)}, {"a": "one", "c": {"d": None}}]

    assert repr(recorded_infos(jam, infos)) == repr(infos)


class Color(enum.Enum):
    RED = 1


class Lamp(enum.IntEnum):
    RED = 1


def test_an_enum_member_in_an_info_comes_back(jam: Jamboree) -> None:
    (info,) = recorded_infos(jam, [{"light": Color.RED, "lamp": Lamp.RED}])

    assert info["light"] is Color.RED
    assert info["lamp"] is Lamp.RED


def test_a_key_that_cannot_be_stored_leaves_a_mark(jam: Jamboree) -> None:
    (info,) = recorded_infos(jam, [{len: 1, "a": {len: 2, "b": 3}, "c": {(len, 1): 4}}])

    mark = "<not recorded: builtins.builtin_function_or_method>"
    assert info == {mark: 1, "a": {mark: 2, "b": 3}, "c": {(mark, 1): 4}}


def test_only_the_keys_asked_for_are_kept(jam: Jamboree) -> None:
    infos = [{"a": 1, "b": 2}, {"b": 3, "c": object()}, {}]

    kept = recorded_infos(jam, infos, record_infos=["a", "b", "never"], strict_infos=True)

    assert kept == [{"a": 1, "b": 2}, {"b": 3}, {}]


@pytest.mark.parametrize("record_infos", ["a", [1], ["a", None], 3, None, b"a"], ids=repr)
def test_keys_of_infos_that_are_no_list_of_strings_are_refused(
    jam: Jamboree, record_infos: Any
) -> None:
    with pytest.raises(InvalidArgument, match="give True or False, or a list of texts"):
        jam.record(CountingEnv(), record_infos=record_infos)


def test_a_strict_recorder_names_what_an_info_cannot_keep(jam: Jamboree) -> None:
    infos = [{"a": 1}, {"a": 2}, {"a": {"b": [0, len]}}, {"a": 4}]
    env = jam.record(ScriptedEnv(infos=infos), strict_infos=True)
    play(env, [ACTION])
    with pytest.raises(
        InvalidRecord, match=r"info 'a'\.b\[1\]: cannot store <built-in function len>"
    ):
        env.step(ACTION)
    env.step(ACTION)
    episode = jam.episode(env.episode_id)

    assert episode.status == "abandoned"
    assert episode.data().infos == [{"a": 1}, {"a": 2}]


def test_a_strict_recorder_begins_no_episode_whose_info_it_cannot_keep(jam: Jamboree) -> None:
    env = jam.record(ScriptedEnv(infos=[{"a": len}, {}, {}]), strict_infos=True)
    with pytest.raises(InvalidRecord, match="info 'a'"):
        env.reset()
    env.step(ACTION)
    jam.flush()

    assert len(jam.episodes()) == 0


def test_infos_are_left_out_on_request(jam: Jamboree) -> None:
    assert recorded_infos(jam, [{"a": 1}, {"b": 2}], record_infos=False) == [{}, {}]


# -- other ways to use it ---------------------------------------------------------------------


class BalanceHandler(EpisodeHandler):
    """Adds what is derived from the steps."""

    @property
    def balance(self) -> float:
        """Sum of all rewards."""
        return float(self.episode.data().rewards.sum())


def test_a_handler_of_ones_own_stands_on_the_current_episode(jam: Jamboree) -> None:
    env = RecordEpisodes(CountingEnv(), jam, handler_class=BalanceHandler)
    play(env, [ACTION, ACTION])

    assert isinstance(env.handler, BalanceHandler)
    assert env.handler.balance == 3.0
    assert env.handler["episode"] == env.episode_id


def test_an_environment_that_is_wrapped_twice_is_recorded_twice(jam: Jamboree) -> None:
    inner = jam.record(gym.make("CartPole-v1"), run="inner")
    outer = jam.record(inner, run="outer")
    play(outer, [0, 1], seed=3)

    episodes = [jam.episode(env.episode_id) for env in (inner, outer)]

    assert inner.episode_id != outer.episode_id
    assert [episode.summary.run for episode in episodes] == ["inner", "outer"]
    assert all(verify(episode) for episode in episodes)


def test_a_synchronous_step_is_in_redis_when_it_returns(open_jamboree: OpenJamboree) -> None:
    jam, reader = open_jamboree(write="sync"), open_jamboree()
    env = jam.record(CountingEnv())
    env.reset()
    for taken in range(1, 4):
        env.step(ACTION)

        assert len(reader.episode(env.episode_id).data()) == taken
    assert reader.episode(env.episode_id).status == "terminated"


def test_buffered_steps_reach_redis_by_themselves(open_jamboree: OpenJamboree) -> None:
    jam, reader = open_jamboree(), open_jamboree()
    env = jam.record(CountingEnv())
    play(env, [ACTION] * 3)

    wait_until(
        lambda: reader.redis.exists(at(reader, reader._connection.keyspace.episode(env.episode_id)))
    )
    wait_until(lambda: reader.episode(env.episode_id).status == "terminated")

    assert len(reader.episode(env.episode_id).data()) == 3


@pytest.mark.parametrize("role", ["observation", "action"])
def test_a_space_that_cannot_be_recorded_is_named_at_once(jam: Jamboree, role: str) -> None:
    class Moods(spaces.Space):
        """None of Gymnasium's."""

    env = CountingEnv()
    setattr(env, f"{role}_space", spaces.Dict(mood=spaces.Tuple([Moods()])))

    with pytest.raises(UnsupportedSpace, match=f"the {role} space holds .*Moods"):
        jam.record(env)


def test_an_observation_that_is_not_what_the_space_says_is_kept_as_it_is(jam: Jamboree) -> None:
    seen = [np.zeros(2), {"position": 3}, None, "lost", [1, "two"]]
    env = jam.record(ScriptedEnv(observations=seen))
    play(env, [ACTION] * 4)

    steps = list(jam.episode(env.episode_id).steps())

    assert [step.next_observation for step in steps] == seen[1:]


def test_an_observation_that_cannot_be_encoded_is_named_and_ends_the_recording(
    jam: Jamboree,
) -> None:
    env = jam.record(ScriptedEnv(observations=[np.zeros(2), {"robot": object()}, np.zeros(2)]))
    env.reset()

    with pytest.raises(InvalidRecord, match=r"the observation cannot be recorded: .*object"):
        env.step(ACTION)
    env.step(ACTION)

    assert jam.episode(env.episode_id).status == "abandoned"


def test_an_action_that_cannot_be_encoded_ends_the_recording_before_the_environment_moves(
    jam: Jamboree,
) -> None:
    inner = CountingEnv()
    env = jam.record(inner)
    env.reset()
    env.step(ACTION)

    with pytest.raises(InvalidRecord, match=r"the action cannot be recorded: .*object"):
        env.step({"robot": object()})

    assert inner.count == 1
    assert jam.episode(env.episode_id).status == "abandoned"
    assert len(jam.episode(env.episode_id).data()) == 1


def test_what_is_no_environment_gets_a_clear_answer(jam: Jamboree) -> None:
    with pytest.raises(UnsupportedSpace, match="object cannot be recorded: it is no"):
        jam.record(object())


@pytest.mark.usefixtures("nothing_held")
def test_rows_that_redis_lost_are_reported_with_their_number(
    own_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(own_valkey.url)
    env = jam.record(CountingEnv(length=100))
    play(env, [ACTION] * 2)
    jam.flush()
    jam.redis.flushall()
    env.step(ACTION)

    with pytest.raises(UnsavedRecords, match="no longer in Redis") as caught:
        jam.flush()
    assert caught.value.unsaved == 1
    jam.close()  # it has been said


@pytest.mark.usefixtures("nothing_held")
def test_later_episodes_bring_their_provenance_to_a_redis_that_was_emptied(
    start_own_redis: Callable[..., Server], open_jamboree: OpenJamboree
) -> None:
    server = start_own_redis("valkey9", "--appendonly", "no")
    jam = open_jamboree(server.url)
    env = jam.record(gym.make("CartPole-v1"))
    play(env, [0], seed=1)
    jam.flush()
    server.kill()
    server.start()
    play(env, [0], seed=1)
    with pytest.raises(UnsavedRecords, match="no longer in Redis"):
        jam.flush()  # the end of the first one

    assert jam.episode(env.episode_id).provenance["env_spec"]["id"] == "CartPole-v1"


def make_recorded(url: str, namespace: str) -> gym.Env[Any, Any]:
    """A factory for worker processes: each opens a Jamboree of its own."""
    return Jamboree(url, namespace=namespace).record(gym.make("CartPole-v1"), run="worker")


WORKER = """
import sys, pickle
factory = pickle.loads(bytes.fromhex(sys.argv[1]))
env = factory()
env.reset(seed=5)
env.step(0)
env.close()
"""


def test_a_factory_can_be_sent_to_another_process(
    valkey: Server, jam: Jamboree, namespace: str
) -> None:
    import cloudpickle

    cloudpickle.register_pickle_by_value(__import__(__name__))
    factory = cloudpickle.dumps(partial(make_recorded, valkey.url, namespace))

    done = run_warm(WORKER, factory.hex())

    assert done.returncode == 0, done.stderr
    assert jam.episodes(run="worker").last().summary.seed == 5


# -- what the agent says ----------------------------------------------------------------------


def test_what_the_agent_says_is_beside_the_next_step(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    env.annotate(value=np.float32(0.5), policy_version=7)
    env.annotate(q_values=np.array([0.25, 0.75]))
    env.step(ACTION)
    env.step(ACTION)
    episode = jam.episode(env.episode_id)

    first, second = episode.steps()
    data = episode.data()

    assert first.annotation["value"] == np.float32(0.5)
    assert type(first.annotation["value"]) is np.float32
    assert type(first.annotation["policy_version"]) is int
    assert first.annotation["q_values"].tolist() == [0.25, 0.75]
    assert second.annotation == {}
    assert data.annotated.tolist() == [True, False]
    np.testing.assert_array_equal(data.annotations["value"], [0.5, np.nan])
    assert data.annotations["q_values"].shape == (2, 2)


def test_an_annotation_is_kept_as_it_was_when_it_was_said(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    buffer = np.zeros(2)
    env.annotate(q_values=buffer)
    buffer[:] = 9.0
    env.step(ACTION)

    assert next(iter(jam.episode(env.episode_id).steps())).annotation["q_values"].tolist() == [0, 0]


def test_an_annotation_may_be_an_empty_array(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    for _ in range(2):
        env.annotate(waypoints=np.zeros((0, 3)))
        env.step(ACTION)

    assert jam.episode(env.episode_id).data().annotations["waypoints"].shape == (2, 0, 3)


def test_what_is_said_before_a_reset_is_dropped(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    env.annotate(value=1.0)
    env.reset()
    env.step(ACTION)

    assert not jam.episode(env.episode_id).data().annotated.any()


def test_names_may_come_and_go(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=100))
    env.reset()
    said: list[dict[str, Any]] = [{"a": 1.0}, {"b": 2}, {}, {"a": 3.0, "b": 4}, {"a": "text"}] * 9
    for values in said:
        if values:
            env.annotate(**values)
        env.step(ACTION)
    episode = jam.episode(env.episode_id)

    assert [step.annotation for step in episode.steps()] == said
    assert len(episode.data().annotations["a"]) == len(said)
    assert episode.recent(2).annotated.tolist() == [True, True]
    assert [step.annotation for step in env.handler.recent(3)] == said[-3:]


def test_an_annotation_that_cannot_be_stored_is_named_when_it_is_said(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    with pytest.raises(InvalidRecord, match=r"the annotation cannot be recorded: .*function"):
        env.annotate(policy=len)
    env.step(ACTION)

    assert len(jam.episode(env.episode_id)) == 1


def test_an_agent_reaches_the_recorder_through_the_wrappers_above_it(jam: Jamboree) -> None:
    recorded = jam.record(CountingEnv())
    env = gym.wrappers.RecordEpisodeStatistics(recorded)
    env.reset()
    env.get_wrapper_attr("annotate")(value=0.5)
    env.step(ACTION)

    assert jam.episode(recorded.episode_id).data().annotations["value"].tolist() == [0.5]


@pytest.mark.torch
def test_a_tensor_is_kept_as_an_array(jam: Jamboree) -> None:
    import torch

    env = jam.record(CountingEnv())
    env.reset()
    env.annotate(value=torch.tensor(0.5), q_values=torch.zeros(3))
    env.step(ACTION)

    annotation = next(iter(jam.episode(env.episode_id).steps())).annotation
    assert annotation["value"].dtype == np.float32
    assert annotation["q_values"].shape == (3,)
