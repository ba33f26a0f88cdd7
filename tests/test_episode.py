"""Reading an episode: whole, in part, from memory, live."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from forged import forge_provenance
from processes import read_line, wait_until
from recorded_envs import ACTION, CountingEnv, DiscreteEnv, ScriptedEnv, play
from stored import at, scripts_run
from warm import start_warm

from jamboree_gym import EpisodeHandler, Jamboree
from jamboree_gym.errors import DecodeError, EpisodeNotFound, InvalidRecord, UnknownKey
from jamboree_gym.reading.episode import Episode
from jamboree_gym.records import StepData, Transitions
from jamboree_gym.wrappers import RecordEpisodes

OpenJamboree = Callable[..., Jamboree]
Reader = Callable[[RecordEpisodes[Any, Any]], Episode]


@pytest.fixture(params=["memory", "Redis"])
def reader(request: pytest.FixtureRequest, jam: Jamboree, open_jamboree: OpenJamboree) -> Any:
    """Gives an episode as the process that records it reads it, and as another one does."""
    other = open_jamboree() if request.param == "Redis" else jam

    def read(env: RecordEpisodes[Any, Any]) -> Episode:
        jam.flush()
        return other.episode(env.episode_id)

    return read


def recorded(jam: Jamboree, steps: int = 5, length: int = 100) -> RecordEpisodes[Any, Any]:
    env = jam.record(CountingEnv(length=length))
    play(env, [ACTION] * steps)
    return env


def assert_equal(one: Transitions, other: Transitions) -> None:
    for name in Transitions.__slots__:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


# -- its steps --------------------------------------------------------------------------------


def test_data_has_one_observation_and_one_info_more_than_steps(jam: Jamboree) -> None:
    data = jam.episode(recorded(jam).episode_id).data()

    assert len(data) == 5
    assert data.observations.shape == (6, 2)
    assert len(data.infos) == 6
    for column in (data.rewards, data.terminations, data.truncations, data.timestamps):
        assert column.shape == (5,)
    assert data.actions.shape == (5, 2)


def test_dtypes_are_those_of_what_was_seen(jam: Jamboree) -> None:
    data = jam.episode(recorded(jam).episode_id).data()

    assert data.observations.dtype == data.actions.dtype == np.float32
    assert data.rewards.dtype == data.timestamps.dtype == np.float64
    assert data.terminations.dtype == data.truncations.dtype == np.bool_


@pytest.mark.parametrize("steps", [1, 5, 600])
def test_arrays_belong_to_the_reader(jam: Jamboree, steps: int) -> None:
    episode = jam.episode(recorded(jam, steps, length=1000).episode_id)
    data = episode.data()
    data.observations[:] = 7.0
    data.actions[:] = 7.0
    data.rewards[:] = 7.0

    assert episode.data().rewards[0] == 1.0


def test_the_observation_of_a_transition_is_what_the_agent_saw_before_acting(
    jam: Jamboree,
) -> None:
    steps = jam.episode(recorded(jam).episode_id).steps()

    assert steps.observations[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert steps.next_observations[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert steps.rewards.tolist() == [1, 2, 3, 4, 5]
    assert steps.indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, None, [0, 1, 2, 3, 4]),
        (1, 3, [1, 2]),
        (4, None, [4]),
        (3, 100, [3, 4]),
        (5, None, []),
        (50, None, []),
        (2, 2, []),
        (3, 1, []),
        (-2, None, [3, 4]),
        (-50, None, [0, 1, 2, 3, 4]),
        (-3, -1, [2, 3]),
        (1, -1, [1, 2, 3]),
        (-2, 4, [3]),
        (-2, 2, []),
        (-50, 2, [0, 1]),
    ],
)
def test_a_range_of_steps(
    jam: Jamboree, reader: Reader, start: int, stop: int | None, expected: list[int]
) -> None:
    steps = reader(recorded(jam)).steps(start, stop)

    assert steps.indices.tolist() == expected
    assert steps.observations.shape == steps.next_observations.shape == (len(expected), 2)
    assert len(steps.infos) == len(expected)


def test_a_range_across_many_frames(jam: Jamboree, reader: Reader) -> None:
    episode = reader(recorded(jam, 1000, length=2000))

    steps = episode.steps(250, 770)

    assert steps.indices.tolist() == list(range(250, 770))
    assert steps.observations[:, 0].tolist() == list(range(250, 770))


@pytest.mark.parametrize("n", [0, 1, 3, 5, 50])
def test_recent_from_memory_is_recent_from_redis(jam: Jamboree, reader: Reader, n: int) -> None:
    env = recorded(jam)

    assert_equal(env.handler.recent(n), reader(env).recent(n))


@pytest.mark.parametrize("n", [5, 90, 300, 900])
def test_recent_goes_to_redis_for_what_memory_no_longer_holds(jam: Jamboree, n: int) -> None:
    env = recorded(jam, 1000, length=2000)
    jam.flush()
    env.step(ACTION)

    assert env.handler.recent(n).indices.tolist() == list(range(1001 - n, 1001))


def test_recent_survives_a_change_of_layout(jam: Jamboree) -> None:
    seen = [np.full(2, i, np.float32 if i < 3 else np.float64) for i in range(6)]
    env = jam.record(ScriptedEnv(observations=seen))
    play(env, [ACTION] * 5)

    assert env.handler.recent(4).observations[:, 0].tolist() == [1, 2, 3, 4]
    assert env.handler.recent(1).observations.dtype == np.float64


def test_recent_after_the_end_is_that_of_the_episode(jam: Jamboree) -> None:
    env = recorded(jam, 5, length=5)

    assert env.handler.recent(3).terminations.tolist() == [False, False, True]


# -- its steps by time ------------------------------------------------------------------------


@pytest.fixture(params=[5, 1000])
def timed(request: pytest.FixtureRequest, jam: Jamboree) -> Any:
    """An episode in one frame, and one in several, the newest of them not yet in Redis."""
    env = recorded(jam, request.param, length=2000)
    jam.flush()
    env.step(ACTION)
    return env


@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (0, 3), (1, 4), (2, -1), (-2, -1), (-1, -1), (0, -1)]
)
def test_steps_between_two_times_are_those_of_the_range(
    reader: Reader, timed: RecordEpisodes[Any, Any], first: int, last: int
) -> None:
    episode = reader(timed)
    steps = episode.steps()
    t0, t1 = steps.timestamps[[first, last]]

    expected = episode.steps(int(steps.indices[first]), int(steps.indices[last]) + 1)
    found = episode.between(t0, t1)
    assert_equal(replace(found, schemas=[]), replace(expected, schemas=[]))
    just_inside = episode.between(np.nextafter(t0, np.inf), np.nextafter(t1, -np.inf))
    assert just_inside.indices.tolist() == expected.indices.tolist()[1:-1]


def test_every_step_is_the_one_as_of_its_time(
    reader: Reader, timed: RecordEpisodes[Any, Any]
) -> None:
    episode = reader(timed)
    steps = list(episode.steps())

    for step in (*steps[:3], *steps[-3:], *steps[254:260]):
        for moment in (step.timestamp, np.nextafter(step.timestamp, np.inf)):
            found = episode.as_of(moment)
            assert found.index == step.index
            assert found.observation.tolist() == step.observation.tolist()
            assert found.next_observation.tolist() == step.next_observation.tolist()
        earlier = episode.as_of(np.nextafter(step.timestamp, -np.inf))
        assert (earlier.index if earlier else -1) == step.index - 1


def test_before_the_first_step_there_is_none(
    reader: Reader, timed: RecordEpisodes[Any, Any]
) -> None:
    episode = reader(timed)
    reset_at = episode.summary.started_at

    assert episode.as_of(reset_at) is None
    assert episode.as_of(0.0) is None
    for t0, t1 in ((0, reset_at), (reset_at, reset_at), (9e9, 9e10), (5, 4)):
        none = episode.between(t0, t1)
        assert len(none) == 0
        assert none.observations.shape == (0, 2)


@pytest.mark.parametrize("read", [lambda e: e.between(0, 9e9), lambda e: e.as_of(9e9)])
def test_an_episode_that_is_not_there_has_no_times(
    jam: Jamboree, read: Callable[[Any], Any]
) -> None:
    with pytest.raises(EpisodeNotFound, match="nowhere"):
        read(jam.episode("nowhere"))


windows = pytest.mark.parametrize(
    "read",
    [
        lambda episode, t: episode.steps(998),
        lambda episode, t: episode.recent(3),
        lambda episode, t: episode.between(t, 9e9),
        lambda episode, t: episode.as_of(t),
    ],
)


@windows
def test_what_this_process_holds_is_read_without_redis(
    jam: Jamboree, read: Callable[[Episode, float], Any]
) -> None:
    env = recorded(jam, 1001, length=2000)
    jam.flush()
    before = scripts_run(jam)
    read(jam.episode(env.episode_id), env.handler.recent(3).timestamps[0])

    assert scripts_run(jam) == before


@windows
def test_from_another_process_each_window_is_one_round_trip(
    jam: Jamboree, open_jamboree: OpenJamboree, read: Callable[[Episode, float], Any]
) -> None:
    env = recorded(jam, 1001, length=2000)
    jam.flush()
    episode = open_jamboree().episode(env.episode_id)
    times = episode.data().timestamps  # from here on its schema is known
    before = scripts_run(jam)
    read(episode, times[-3])

    assert scripts_run(jam) == before + 1


def test_what_memory_no_longer_holds_is_read_from_redis(jam: Jamboree) -> None:
    env = recorded(jam, 1000, length=2000)
    jam.flush()
    env.step(ACTION)
    episode = jam.episode(env.episode_id)
    times = episode.data().timestamps

    assert episode.steps(3, 990).indices.tolist() == list(range(3, 990))
    assert episode.between(times[3], times[989]).indices.tolist() == list(range(3, 990))
    assert episode.as_of(times[3]).index == 3


# -- what it is -------------------------------------------------------------------------------


def test_an_episode_that_is_not_there_is_named_with_its_place(jam: Jamboree) -> None:
    with pytest.raises(EpisodeNotFound) as caught:
        jam.episode("nowhere").data()

    assert "'nowhere'" in str(caught.value)
    assert jam._connection.keyspace.namespace in str(caught.value)
    assert jam._connection.store.where in str(caught.value)


@pytest.mark.parametrize(
    "read",
    [
        lambda episode: episode.summary,
        lambda episode: episode.steps(),
        lambda episode: episode.recent(3),
        lambda episode: list(episode.tail()),
        lambda episode: episode.delete(),
        lambda episode: episode.origin,
    ],
)
def test_every_read_of_an_episode_that_is_not_there_says_so(
    jam: Jamboree, read: Callable[..., Any]
) -> None:
    with pytest.raises(EpisodeNotFound):
        read(jam.episode("nowhere"))


def test_a_deleted_episode_is_gone_and_no_longer_listed(jam: Jamboree) -> None:
    env = recorded(jam, 5, length=5)
    episode = jam.episode(env.episode_id)
    episode.delete()

    with pytest.raises(EpisodeNotFound):
        episode.data()
    assert jam.episodes().ids() == []


def test_an_unseeded_episode_keeps_the_state_of_its_generator(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()
    state = jam.episode(env.episode_id).origin.rng_state

    assert state == env.unwrapped.np_random.bit_generator.state


@pytest.mark.parametrize("name", ["PCG64", "MT19937", "Philox", "SFC64"])
def test_the_state_of_any_generator_comes_back(jam: Jamboree, name: str) -> None:
    env = jam.record(CountingEnv())
    env.unwrapped.np_random = np.random.Generator(getattr(np.random, name)(3))
    expected = env.unwrapped.np_random.bit_generator.state
    env.reset()

    state = jam.episode(env.episode_id).origin.rng_state

    assert repr(state) == repr(expected)


def test_the_spaces_of_an_episode_are_those_that_were_recorded(jam: Jamboree) -> None:
    env = recorded(jam)
    episode = jam.episode(env.episode_id)

    assert episode.observation_space == env.observation_space
    assert episode.action_space == env.action_space


def test_the_spaces_of_a_vector_environments_episode_are_those_of_one(jam: Jamboree) -> None:
    envs = jam.record(gym.make_vec("CartPole-v1", num_envs=2), run="vector")
    envs.reset(seed=1)
    episode = jam.episodes(run="vector").last()
    envs.close()

    assert episode.observation_space == envs.single_observation_space
    assert episode.action_space == envs.single_action_space


# -- damage -----------------------------------------------------------------------------------


def test_a_provenance_without_a_space_is_named(jam: Jamboree) -> None:
    episode = jam.episode(recorded(jam).episode_id)
    forge_provenance(jam, episode, lambda provenance: provenance.pop("action_space"))

    assert episode.observation_space is not None
    with pytest.raises(DecodeError, match=f"'{episode.id}' is damaged: it has no action_space"):
        print(episode.action_space)


def test_a_frame_that_is_missing_is_named(jam: Jamboree) -> None:
    env = recorded(jam, 1000, length=2000)
    jam.flush()
    key = jam._connection.keyspace.episode(env.episode_id)
    jam.redis.lrem(at(jam, key), 1, jam.redis.lindex(at(jam, key), 2))

    with pytest.raises(DecodeError, match="missing"):
        jam.episode(env.episode_id).data()


def test_a_newest_frame_that_is_missing_is_named(
    jam: Jamboree, open_jamboree: OpenJamboree
) -> None:
    env = recorded(jam, 1000, length=2000)
    jam.flush()
    key = jam._connection.keyspace.episode(env.episode_id)
    jam.redis.rpop(at(jam, key))

    for read in (Episode.data, lambda episode: episode.recent(3)):
        with pytest.raises(DecodeError, match="missing"):
            read(open_jamboree().episode(env.episode_id))


def test_a_flipped_bit_is_named(jam: Jamboree) -> None:
    env = recorded(jam)
    jam.flush()
    key = jam._connection.keyspace.episode(env.episode_id)
    frame = bytearray(jam.redis.lindex(at(jam, key), 1))
    frame[-3] ^= 1
    jam.redis.lset(at(jam, key), 1, bytes(frame))

    with pytest.raises(DecodeError, match="checksum"):
        jam.episode(env.episode_id).data()


# -- live -------------------------------------------------------------------------------------


def test_tail_gives_every_step_once_and_ends_with_the_episode(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = writer.record(CountingEnv(length=300))
    env.reset()
    writer.flush()
    seen: list[StepData] = []
    episode = reader.episode(env.episode_id)
    thread = threading.Thread(target=lambda: seen.extend(episode.tail()))
    thread.start()
    for _ in range(300):
        env.step(ACTION)
    thread.join(60)

    assert not thread.is_alive()
    assert [step.index for step in seen] == list(range(300))
    assert [step.terminated for step in seen] == [False] * 299 + [True]


def test_tail_in_the_writing_process_sees_what_is_not_in_redis_yet(jam: Jamboree) -> None:
    env = recorded(jam)

    steps = list(jam.episode(env.episode_id).tail(timeout_s=0))

    assert [step.index for step in steps] == [0, 1, 2, 3, 4]


WRITER = """
import sys
from jamboree_gym import Jamboree
from recorded_envs import ACTION, CountingEnv
with Jamboree(sys.argv[1], namespace=sys.argv[2]) as jam:
    env = jam.record(CountingEnv(length=200))
    env.reset()
    jam.flush()
    print(env.episode_id, flush=True)
    for _ in range(200):
        env.step(ACTION)
"""


def test_tail_follows_another_process(valkey: Server, jam: Jamboree, namespace: str) -> None:
    process = start_warm(WRITER, valkey.url, namespace)
    episode = jam.episode(read_line(process).strip())

    steps = list(episode.tail(timeout_s=60))

    assert [step.index for step in steps] == list(range(200))
    assert episode.status == "terminated"
    assert process.communicate(timeout=60)[1] == ""


def test_the_end_is_seen_by_a_reader_that_settles_at_the_same_moment(jam: Jamboree) -> None:
    for _ in range(50):
        env = jam.record(CountingEnv(length=2))
        env.reset()
        episode = jam.episode(env.episode_id)
        reader = threading.Thread(target=lambda episode=episode: [episode.status for _ in range(9)])
        reader.start()
        env.step(ACTION)
        env.step(ACTION)
        reader.join()

        assert episode.status == "terminated"


# -- the handler ------------------------------------------------------------------------------


def handler_of(jam: Jamboree, episode_id: str) -> EpisodeHandler:
    handler = EpisodeHandler(jam)
    handler["episode"] = episode_id
    return handler


def test_a_handler_reads_an_episode_of_someone_else(open_jamboree: OpenJamboree) -> None:
    env = recorded(open_jamboree())
    env.handler.event.flush()
    handler = handler_of(open_jamboree(), env.episode_id)

    assert handler.count() == 5
    assert handler.recent(2).indices.tolist() == [3, 4]
    assert [step["index"] for step in handler.many(3)] == [2, 3, 4]
    assert handler.last()["reward"] == 5.0
    assert [step["index"] for step in handler.tail(timeout_s=0)] == [0, 1, 2, 3, 4]


def test_a_handler_finds_steps_by_time(jam: Jamboree) -> None:
    env = recorded(jam)
    handler = handler_of(jam, env.episode_id)
    times = jam.episode(env.episode_id).data().timestamps

    assert [step["index"] for step in handler.between(times[1], times[3])] == [1, 2, 3]
    assert handler.as_of(times[2])["index"] == 2
    assert handler.as_of(0.0) is None


def test_a_handler_of_an_episode_that_is_not_there_has_no_records(jam: Jamboree) -> None:
    handler = handler_of(jam, "nowhere")

    assert (handler.count(), handler.many(3), handler.last()) == (0, [], None)
    assert handler.between(0, 1) == []
    with pytest.raises(EpisodeNotFound):
        handler.recent(3)


def test_steps_are_written_by_hand(jam: Jamboree) -> None:
    env = DiscreteEnv()
    made = jam.record(env)
    made.reset()
    handler = made.handler
    handler.save({**STEP, "terminated": True})

    assert handler.count() == 1
    assert handler.episode.status == "terminated"
    with pytest.raises(InvalidRecord, match="no episode is being written"):
        handler.step(1, np.zeros(2, np.float32), 1.0, False, False, {})
    with pytest.raises(InvalidRecord, match="not a step"):
        handler.save({"speed": 3})


class FaultyHandler(EpisodeHandler):
    """A subclass with a mistake in it."""

    def add_step(self, *returned: Any) -> None:
        super().add_step(*returned)
        len(3)  # type: ignore[arg-type]


def begun_by_hand(jam: Jamboree, kind: type[EpisodeHandler]) -> EpisodeHandler:
    made = jam.record(DiscreteEnv(), handler_class=kind)
    made.reset()
    return made.handler


STEP = {
    "action": 1,
    "observation": np.zeros(2, np.float32),
    "reward": 1.0,
    "terminated": False,
    "truncated": False,
    "info": {},
}


def test_a_type_error_within_a_step_is_not_taken_for_wrong_arguments(jam: Jamboree) -> None:
    handler = begun_by_hand(jam, FaultyHandler)
    with pytest.raises(TypeError, match="'int' has no len"):
        handler.save(STEP)
    with pytest.raises(InvalidRecord, match=r"not a step: .*observation"):
        handler.save({"action": 1})


@pytest.mark.parametrize("annotation", [5, [1, 2], "word"])
def test_an_annotation_that_is_no_dict_is_refused_by_name(jam: Jamboree, annotation: Any) -> None:
    handler = begun_by_hand(jam, EpisodeHandler)
    with pytest.raises(InvalidRecord, match="the annotation cannot be recorded"):
        handler.save({**STEP, "annotation": annotation})
    assert handler.episode.status == "abandoned"


def test_steps_of_an_episode_are_not_popped(jam: Jamboree) -> None:
    with pytest.raises(InvalidRecord, match="stays whole"):
        handler_of(jam, "e").pop()


def test_a_handler_without_episode_says_what_to_set(jam: Jamboree) -> None:
    with pytest.raises(UnknownKey, match="'episode' is not set"):
        EpisodeHandler(jam).recent(3)


def test_a_deleted_episode_is_gone_for_its_handler(jam: Jamboree) -> None:
    env = recorded(jam, 5, length=5)
    env.handler.delete()

    assert env.handler.count() == 0


# -- frames -----------------------------------------------------------------------------------


@pytest.mark.vaex
def test_a_frame_has_a_column_for_every_element(jam: Jamboree) -> None:
    frame = jam.episode(recorded(jam).episode_id).frame()

    assert frame.get_column_names() == [
        *("index", "timestamp", "reward", "terminated", "truncated"),
        *("action_0", "action_1", "observation_0", "observation_1"),
    ]
    assert frame["reward"].tolist() == [1, 2, 3, 4, 5]
    assert frame["observation_0"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.vaex
def test_a_frame_of_scalar_actions_has_one_column_for_them(jam: Jamboree) -> None:
    env = jam.record(DiscreteEnv())
    play(env, [0, 2, 1])

    assert jam.episode(env.episode_id).frame()["action"].tolist() == [0, 2, 1]


@pytest.mark.vaex
def test_a_frame_of_images_has_one_column_of_arrays(jam: Jamboree) -> None:
    env = jam.record(ScriptedEnv(observations=[np.zeros((20, 20), np.uint8)] * 3))
    play(env, [ACTION, ACTION])

    assert jam.episode(env.episode_id).frame()["observation"].shape == (2, 20, 20)


@pytest.mark.vaex
def test_a_frame_without_steps_is_empty(jam: Jamboree) -> None:
    env = jam.record(CountingEnv())
    env.reset()

    assert len(jam.episode(env.episode_id).frame()) == 0
    assert len(env.handler.transactions) == 0


@pytest.mark.vaex
def test_transactions_are_the_newest_steps_newest_first(jam: Jamboree) -> None:
    env = jam.record(CountingEnv(length=1000))
    env.handler.limit = 3
    play(env, [ACTION] * 5)

    assert env.handler.transactions["reward"].tolist() == [5, 4, 3]
    assert env.handler.transactions["observation_0"].tolist() == [4, 3, 2]


def test_status_of_a_live_episode_is_seen_without_a_flush(open_jamboree: OpenJamboree) -> None:
    writer, reader = open_jamboree(), open_jamboree()
    env = writer.record(CountingEnv(length=3))
    play(env, [ACTION] * 3)

    wait_until(lambda: reader.episodes(status="terminated").ids() == [env.episode_id])
