"""Many environments that step together are recorded by blocks: the same as one by one.

`BLOCKS_FROM` says from how many on. Here a block is used for each number, or for none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lengths import examples
from recorded_envs import CountingEnv

from jamboree_gym import Jamboree
from jamboree_gym.arrays.layout import Leaf
from jamboree_gym.delivery import step_outbox
from jamboree_gym.delivery.row_writer import RowWriter
from jamboree_gym.journal import vector_block
from jamboree_gym.recording import vector_recorder
from jamboree_gym.recording.annotations import AnnotationColumns

OpenJamboree = Callable[..., Jamboree]
NEVER = 10**6
HOUR_S = 3600.0
VALUE = AnnotationColumns({"value": Leaf(np.dtype(np.float32), (), "numpy")})
SPACES = {
    "box": spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
    "bits": spaces.MultiBinary(5),
    "number": spaces.Discrete(100),
    "nothing": spaces.Box(0, 1, (0,), np.float64),
    "dict": spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (1,)))),
    "text": spaces.Text(5),
}
ACTIONS = {"number": spaces.Discrete(5), "box": spaces.Box(-1, 1, (2,), np.float32)}
BEFORE = ["numbers", "own annotation", "delete", "end", "reset one", "recent"]


class Moody(gym.Env[Any, Any]):
    """Says and does by a generator of its own what it likes."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as gymnasium.Env has it

    def __init__(self, space: str, action: str, number: int, chances: dict[str, float]) -> None:
        self.observation_space, self.action_space = SPACES[space], ACTIONS[action]
        self.observation_space.seed(number)
        self.rng = np.random.default_rng(number)
        self.chances = chances

    def chance(self, what: str) -> bool:
        return bool(self.rng.random() < self.chances[what])

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), self.info()

    def info(self) -> dict[str, Any]:
        return {"lap": int(self.rng.integers(9))} if self.chance("info") else {}

    def step(self, action: Any) -> Any:
        ends = self.chance("end"), self.chance("cut")
        return self.observation_space.sample(), float(self.rng.normal()), *ends, self.info()


@pytest.fixture(scope="module")
def shared(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One Jamboree for all examples."""
    home = tmp_path_factory.mktemp("blocks")
    with Jamboree(valkey.url, namespace="blocks", home=home, backup=False) as jam:
        yield jam


def made(
    space: str, action: str, size: int, mode: AutoresetMode, chances: dict[str, float]
) -> SyncVectorEnv:
    kinds = [lambda i=i: Moody(space, action, i, chances) for i in range(size)]
    return SyncVectorEnv(kinds, autoreset_mode=mode)


def played(
    jam: Jamboree,
    envs: VectorEnv[Any, Any, Any],
    says: list[str],
    seed: int,
    run: str,
) -> tuple[list[Any], list[Any]]:
    """What is recorded, by environment and episode; and what `recent` has shown meanwhile."""
    rng = np.random.default_rng(seed)
    recorded: Any = jam.record(envs, run=run)
    mode, size = envs.metadata["autoreset_mode"], envs.num_envs
    over, shown = np.zeros(size, bool), list[Any]()
    envs.action_space.seed(seed)
    recorded.reset(seed=seed)
    for say in says:
        one = int(rng.integers(size))
        numbers = [(float(value),) for value in rng.standard_normal(size).astype(np.float32)]
        if say == "numbers":
            recorded._recorder.annotate_numbers(VALUE, numbers)
        elif say == "own annotation":
            recorded.annotate(mood=np.arange(size))
        elif say == "delete" and not recorded.handlers[one].was_deleted:
            jam.episode(recorded.episode_ids[one]).delete()
        elif say == "end":
            recorded.handlers[one].end("abandoned")
        elif say == "recent":
            shown.append(
                [
                    steps_of(handler.recent(3))
                    for handler in recorded.handlers
                    if not handler.was_deleted
                ]
            )
        if mode is AutoresetMode.DISABLED and (say == "reset one" or over.any()):
            mask = over.copy()
            mask[one] = True
            recorded.reset(options={"reset_mask": mask})
            over[:] = False
        _, _, terminated, truncated, _ = recorded.step(envs.action_space.sample())
        over |= terminated | truncated
    recorded.close()
    jam.flush()
    found: list[list[Any]] = [[] for _ in range(size)]
    for episode in jam.episodes(run=run, wait=True):  # a run goes with its last episode
        summary, origin = episode.summary, episode.origin
        times = episode.data().timestamps
        assert np.all(np.diff(times) > 0)
        assert summary.elapsed_s == pytest.approx(
            max(times, default=summary.started_at) - summary.started_at
        )
        found[summary.vector_index or 0].append(
            (
                (summary.status, summary.steps, summary.episode_return, summary.seed),
                (origin.follows is None, str(origin.rng_state)),
                steps_of(episode.steps()),
                repr(next(iter(episode.steps()), None) and episode.data().infos[0]),
            )
        )
    return found, shown


def steps_of(steps: Any) -> list[str]:
    """Everything that is kept of steps, except their time."""
    return [
        repr(
            [
                (one.index, one.observation, type(one.observation), one.action, type(one.action)),
                (one.reward, one.next_observation, one.terminated, one.truncated, one.info),
                [(name, type(said), said) for name, said in one.annotation.items()],
            ]
        )
        for one in steps
    ]


chances = st.fixed_dictionaries(
    {
        "end": st.sampled_from([0.0, 0.1, 0.5]),
        "cut": st.sampled_from([0.0, 0.1]),
        "info": st.sampled_from([0.0, 0.0, 0.02, 0.5]),
    }
)
run_numbers = iter(range(NEVER))


@given(
    space=st.sampled_from([*SPACES, "box", "box"]),
    action=st.sampled_from(list(ACTIONS)),
    size=st.integers(1, 5),
    mode=st.sampled_from(list(AutoresetMode)),
    chances=chances,
    says=st.lists(
        st.one_of(st.just(""), st.just(""), st.sampled_from(BEFORE)), min_size=1, max_size=60
    ),
    seed=st.integers(0, 99),
    block_bytes=st.sampled_from([1 << 11, 1 << 16]),
)
@settings(max_examples=examples(400), deadline=None, suppress_health_check=list(HealthCheck))
def test_blocks_keep_the_same_as_one_by_one(
    shared: Jamboree,
    space: str,
    action: str,
    size: int,
    mode: AutoresetMode,
    chances: dict[str, float],
    says: list[str],
    seed: int,
    block_bytes: int,
) -> None:
    kept = []
    for blocks_from in (1, NEVER):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(vector_recorder, "BLOCKS_FROM", blocks_from)
            patched.setattr(vector_block, "LARGEST_BYTES", block_bytes)
            envs = made(space, action, size, mode, chances)
            kept.append(played(shared, envs, says, seed, f"r{next(run_numbers)}"))
    (by_blocks, shown_by_blocks), (one_by_one, shown) = kept
    assert by_blocks == one_by_one
    assert shown_by_blocks == shown


def test_rows_that_come_after_a_delivery_are_delivered_too(open_jamboree: OpenJamboree) -> None:
    """Of episodes that go on in the same block: each delivery takes what is new."""
    jam = open_jamboree(flush_interval_s=HOUR_S)
    store, keyspace = jam._connection.redis_store, jam._connection.keyspace
    env = jam.record(SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 8), run="r")
    env.reset(seed=0)
    for steps in range(1, 4):
        env.step(np.arange(8) % 2)
        jam.flush()
        heads = [store.head(keyspace.episode(id)) for id in env.episode_ids]
        assert [head and head.count for head in heads] == [steps + 1] * 8


@pytest.mark.parametrize("num_envs", [0, 8])  # rows of its own, and a row for all
def test_a_step_that_comes_during_a_delivery_is_flushed(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch, num_envs: int
) -> None:
    jam = open_jamboree(flush_interval_s=HOUR_S)
    store, keyspace = jam._connection.redis_store, jam._connection.keyspace
    env: Any = jam.record(SyncVectorEnv([CountingEnv] * num_envs) if num_envs else CountingEnv())
    action = np.zeros((num_envs, 2) if num_envs else 2, np.float32)
    env.reset()
    env.step(action)
    span, steps_to_come = step_outbox.Span, [action]

    def step_meanwhile(*rows: Any) -> Any:
        if steps_to_come:
            env.step(steps_to_come.pop())
        return span(*rows)

    monkeypatch.setattr(step_outbox, "Span", step_meanwhile)
    jam.flush()
    jam.flush()

    ids = env.episode_ids if num_envs else [env.episode_id]
    heads = [store.head(keyspace.episode(id)) for id in ids]
    assert [head and head.count for head in heads] == [3] * len(ids)


def test_a_ctrl_c_where_an_episode_enters_a_block_harms_no_other(
    open_jamboree: OpenJamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    jam = open_jamboree(flush_interval_s=HOUR_S)
    other = jam.record(gym.make("CartPole-v1"), run="other")
    other.reset(seed=1)
    env = jam.record(SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 8), run="r")
    env.reset(seed=1)
    use_format = RowWriter._use_format

    def interrupt(box: RowWriter, row_format: Any) -> None:
        if not box._extents:  # of an episode that begins in the block
            raise KeyboardInterrupt
        use_format(box, row_format)

    monkeypatch.setattr(RowWriter, "_use_format", interrupt)
    with pytest.raises(KeyboardInterrupt):  # in CartPole all fall over within some steps
        any(env.step(np.ones(8, np.int64)) is None for _ in range(500))
    monkeypatch.undo()
    other.step(1)
    jam.flush()
    assert len(jam.episode(other.episode_id).data()) == 1


def test_tags_of_any_size_are_kept(open_jamboree: OpenJamboree) -> None:
    jam = open_jamboree()
    tags = {"config": "x" * 200_000}
    env = jam.record(SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 8), run="r", tags=tags)
    env.reset(seed=1)
    for _ in range(30):
        env.step(np.ones(8, np.int64))
    assert all(episode.summary.tags == tags for episode in jam.episodes(run="r"))
    assert sum(len(episode.data()) for episode in jam.episodes(run="r")) > 200


def test_a_first_action_of_another_dtype_leaves_the_time_of_the_reset(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree(flush_interval_s=HOUR_S)
    env = jam.record(SyncVectorEnv([lambda: CountingEnv(length=3)] * 8), run="r")
    env.reset(seed=1)
    for _ in range(3 * 4):  # the last one resets all
        env.step(np.zeros((8, 2), np.float32))
    env.step(np.zeros((8, 2), np.float64))
    jam.flush()
    for id in env.episode_ids:
        episode = jam.episode(id)
        assert episode._reader.rows(0, 1).timestamps[0] == episode.summary.started_at
