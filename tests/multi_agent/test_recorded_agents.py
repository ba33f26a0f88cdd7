"""What is recorded of several agents: each one's steps, the turns, births and deaths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pettingzoo
import pytest
from conftest import Server
from processes import read_line
from teams import CountingAEC, GrowingTeam, play_steps, play_turns
from warm import start_warm

from jamboree_gym import Jamboree
from jamboree_gym.errors import EpisodeNotFound, InvalidArgument, InvalidRecord, ReplayError
from jamboree_gym.replay import verify as verify_single


def recorded(jam: Jamboree, env: Any, length: int = 100, **options: Any) -> Any:
    wrapped = jam.record(env, **options)
    (play_turns if isinstance(env, pettingzoo.AECEnv) else play_steps)(wrapped, length)
    id = wrapped.joint_id
    wrapped.close()
    return jam.joint_episode(id)


def test_an_agent_has_what_it_saw_did_and_got_until_its_next_turn(jam: Jamboree) -> None:
    env = jam.record(CountingAEC())
    env.reset(seed=3)
    for action in (2, 1, 0):
        env.last()
        env.step(action)
    env.close()
    joint = jam.joint_episode(env.joint_id)
    first, second = (joint.agents[name].data() for name in ("agent_0", "agent_1"))
    assert first.observations.ravel().tolist() == [0, 2, 3]
    assert first.actions.tolist() == [2, 0]
    assert first.rewards.tolist() == [-0.25 + 1, -0.25]
    assert second.observations.ravel().tolist() == [1, 3]
    assert second.rewards.tolist() == [-0.25 + 0]
    assert [info.get("acted") for info in first.infos] == [None, 1, 2]
    assert joint.early_rewards == [("agent_1", 2.0)]  # it got this before its first turn
    assert joint.status == "abandoned"
    assert joint.verify()


def test_the_recorder_changes_nothing(jam: Jamboree) -> None:
    plain, wrapped = CountingAEC(), jam.record(CountingAEC())
    assert play_turns(wrapped, 100) == play_turns(plain, 100)


def test_the_order_of_turns_and_deaths_are_kept(jam: Jamboree) -> None:
    joint = recorded(jam, CountingAEC((1, 2)))
    assert [next(iter(turn.actions.items())) for turn in joint.turns][2:] == [
        ("agent_0", None),
        ("agent_1", joint.turns[3].actions["agent_1"]),
        ("agent_1", None),
    ]
    assert joint.deaths == {"agent_0": 2, "agent_1": 4}
    assert joint.status == "terminated"
    assert {name: one.summary.steps for name, one in joint.agents.items()} == {
        "agent_0": 1,
        "agent_1": 2,
    }


def test_agents_that_are_born_and_die_have_episodes_of_their_length(jam: Jamboree) -> None:
    joint = recorded(jam, GrowingTeam())
    found = {name: (one.summary.steps, one.status) for name, one in joint.agents.items()}
    assert found == {"a": (5, "terminated"), "b": (8, "truncated"), "c": (5, "truncated")}
    assert (joint.births, joint.deaths) == ({"c": 2}, {"a": 4, "b": 7, "c": 7})
    assert joint.turns[1].other == {"infos": {"common": {"step": 2}}}
    assert [name for name, _ in joint.early_rewards] == ["c"]
    assert joint.agents["b"].data().observations.shape == (9, 2)
    assert joint.verify()


def test_agents_are_found_alone_and_together(jam: Jamboree) -> None:
    env = jam.record(GrowingTeam(), run="team", tags={"lr": 0.1})
    for seed in (1, 2):
        play_steps(env, 100, seed=seed)
    env.close()
    assert len(jam.episodes(run="team")) == 6
    assert jam.episodes(run="team", agent="c").table().num_rows == 10
    assert len(jam.episodes(run="team").where(agent="a", tags={"lr": 0.1})) == 2
    joints = jam.joint_episodes(run="team", agent="c")
    assert [one.seed for one in joints] == [1, 2]
    assert all(list(one.agents) == ["a", "b", "c"] for one in joints)
    assert jam.joint_episode(joints[0].agents["b"]) == joints[0]
    assert jam.joint_episode(joints[0].id[:-1]).env_id == "growing_v0"


@pytest.mark.parametrize("names", [(7, "sieben"), ("\ud800", "ж/:{}"), (("x", 1), frozenset({2}))])
def test_agents_may_have_any_name(jam: Jamboree, names: tuple[Any, ...]) -> None:
    joint = recorded(jam, CountingAEC((2, 2), names))
    assert joint.status == "terminated"
    assert joint.verify(make=lambda: CountingAEC((2, 2), names))


def test_a_tag_that_the_recorder_sets_is_refused(jam: Jamboree) -> None:
    with pytest.raises(InvalidArgument, match=r"'joint'.*another name"):
        jam.record(CountingAEC(), tags={"joint": 1})
    with pytest.raises(InvalidArgument, match="snapshot_every= is for single"):
        jam.record(CountingAEC(), snapshot_every=3)


def test_an_action_that_the_environment_refuses_is_no_turn(jam: Jamboree) -> None:
    env = jam.record(CountingAEC())
    env.reset(seed=1)
    env.last()
    with pytest.raises(ValueError, match="illegal"):
        env.step(9)
    env.step(1)
    env.close()
    joint = jam.joint_episode(env.joint_id)
    assert [dict(turn.actions) for turn in joint.turns] == [{"agent_0": 1}]
    assert joint.verify()


def test_an_agent_that_does_not_look_is_recorded(jam: Jamboree) -> None:
    env = jam.record(CountingAEC((2, 2)))
    env.reset()
    for action in (0, 1, 2, 0, None, None):
        env.step(action)
    joint = jam.joint_episode(env.joint_id)
    assert joint.agents["agent_0"].data().actions.tolist() == [0, 2]
    assert joint.verify()


def test_one_agent_that_cannot_be_recorded_does_not_stop_the_others(jam: Jamboree) -> None:
    def odd(agent: str, count: int) -> Any:
        return object() if (agent, count) == ("b", 2) else None

    env = jam.record(GrowingTeam(odd))
    env.reset(seed=1)
    env.step({"a": 0, "b": 0})
    with pytest.raises(InvalidRecord) as raised:
        env.step({"a": 0, "b": 0})
    assert raised.value.returned[1].keys() == {"a", "b"}
    env.step({"a": 0, "b": 0})
    joint = jam.joint_episode(env.joint_id)
    steps = {name: one.summary.steps for name, one in joint.agents.items()}
    assert steps == {"a": 3, "b": 1, "c": 0}


def test_a_living_agent_of_which_nothing_is_said_keeps_its_step(jam: Jamboree) -> None:
    class Silent(GrowingTeam):
        def step(self, actions: Any) -> Any:
            result = super().step(actions)
            for part in result[:4] if self.count == 2 else ():
                part.pop("b")
            return result

    env = jam.record(Silent())
    env.reset(seed=1)
    for actions in ({"a": 0, "b": 1}, {"a": 0}, {"a": 0, "b": 2}):
        env.step(actions)
    env.close()
    joint = jam.joint_episode(env.joint_id)
    steps = list(joint.agents["b"].steps())
    assert [step.action for step in steps] == [1, None, 2]
    assert [step.next_observation is None for step in steps] == [False, True, False]
    assert steps[1].reward == 0.0
    assert joint.verify(make=Silent)


def test_an_annotation_is_of_the_agent_whose_turn_it_is(jam: Jamboree) -> None:
    env = jam.record(CountingAEC())
    env.reset()
    for value in (0.5, 1.5, 2.5):
        env.annotate(value=value)
        env.step(0)
    env.close()
    agents = jam.joint_episode(env.joint_id).agents
    assert agents["agent_0"].data().annotations["value"].tolist() == [0.5, 2.5]
    assert agents["agent_1"].data().annotations["value"].tolist() == [1.5]


def test_hundreds_of_agents_are_recorded(jam: Jamboree) -> None:
    joint = recorded(jam, CountingAEC((1,) * 300), 400)
    assert len(joint.summaries) == 300
    assert len(joint.turns) == 400


def test_an_episode_of_one_agent_says_that_the_whole_is_to_be_verified(jam: Jamboree) -> None:
    joint = recorded(jam, CountingAEC())
    with pytest.raises(ReplayError, match=r"jam\.joint_episode\(id\)\.verify"):
        verify_single(joint.episodes[0])


def test_a_deleted_joint_episode_leaves_nothing(jam: Jamboree) -> None:
    joint = recorded(jam, CountingAEC())
    joint.delete()
    jam.flush()
    assert not [key for key in jam.redis.scan_iter(f"*{joint.id}*") if b"tomb" not in key]
    with pytest.raises(EpisodeNotFound):
        jam.joint_episode(joint.id)


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from teams import CountingAEC
from jamboree_gym import Jamboree
env = Jamboree(sys.argv[1], namespace=sys.argv[3], backup=False).record(CountingAEC((99, 99)))
env.reset(seed=1)
for _ in range(7):
    env.last()
    env.step(1)
print(env.joint_id, flush=True)
sys.stdin.read()
"""


def test_a_killed_process_loses_no_turn(valkey: Server, namespace: str) -> None:
    child = start_warm(KILLED, valkey.url, Path(__file__).parent, namespace)
    id = read_line(child).strip()
    child.kill()
    child.communicate()
    with Jamboree(valkey.url, namespace=namespace, backup=False) as jam:
        joint = jam.joint_episode(id)
        assert joint.status == "interrupted"
        assert len(joint.turns) == 7
        assert [one.steps for one in joint.summaries] == [3, 2]
        assert joint.verify()
        assert np.array_equal(joint.agents["agent_0"].data().actions, [1, 1, 1])
