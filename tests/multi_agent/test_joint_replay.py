"""Joint episodes again: where they differ, forks, and playback as environments of PettingZoo."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from teams import CountingAEC, GrowingTeam, play_steps, play_turns

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidArgument, ReplayError, ReplayMismatch
from jamboree_gym.multi_agent import JointEpisode, ReplayAEC, ReplayParallel

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it loads its own deprecated environments
    from pettingzoo.test import api_test, parallel_api_test
    from pettingzoo.utils.wrappers import OrderEnforcingWrapper


@pytest.fixture
def counted(jam: Jamboree) -> JointEpisode:
    env = jam.record(CountingAEC((3, 5)))
    play_turns(env, 100)
    env.close()
    return jam.joint_episode(env.joint_id)


@pytest.fixture
def grown(jam: Jamboree) -> JointEpisode:
    env = jam.record(GrowingTeam())
    play_steps(env, 100)
    env.close()
    return jam.joint_episode(env.joint_id)


def test_an_agents_episode_alone_says_what_simulates_all(counted: JointEpisode) -> None:
    with pytest.raises(ReplayError) as caught:
        counted.episodes[0].verify()
    first, second = str(caught.value).splitlines()
    assert first.endswith("it is one agent's part of a joint episode")
    assert "jam.joint_episode(id).verify()" in second
    assert "make" not in second


class OtherCounting(CountingAEC):
    """Pays otherwise from the fifth turn on."""

    def step(self, action: Any) -> None:
        super().step(action)
        if self.count == 5 and self.agents:
            self._cumulative_rewards[self.agent_selection] += 1.0


def test_the_first_difference_names_turn_and_agent(counted: JointEpisode) -> None:
    report = counted.verify(make=OtherCounting)
    assert not report
    assert report.mismatch is not None
    assert (report.mismatch.field, report.turn, report.agent) == ("reward", 5, "agent_1")
    assert "differs at turn 5: agent 'agent_1', reward at step 1" in str(report)


def test_another_order_of_turns_is_a_difference(counted: JointEpisode) -> None:
    report = counted.verify(make=lambda: CountingAEC((1, 5)))
    assert report.mismatch is not None
    assert report.mismatch.field in ("terminated", "turn")


def test_other_agents_alive_are_a_difference(grown: JointEpisode) -> None:
    class Barren(GrowingTeam):
        def step(self, actions: Any) -> Any:
            result = super().step(actions)
            self.agents = [one for one in self.agents if one != "c"]
            return result

    report = grown.verify(make=Barren)
    assert report.mismatch is not None
    assert (report.mismatch.field, report.turn) == ("agents", 2)


def test_what_cannot_be_made_says_what_to_hand_over(jam: Jamboree) -> None:
    class Forgetful(CountingAEC):
        def __init__(self, size: int) -> None:
            super().__init__()
            del self._ezpickle_args

    env = jam.record(Forgetful(3))
    play_turns(env, 4)
    env.close()
    joint = jam.joint_episode(env.joint_id)
    with pytest.raises(ReplayError, match=r"verify\(make=lambda"):
        joint.verify()
    assert joint.verify(make=lambda: Forgetful(3))
    with pytest.raises(ReplayError, match="recorded in an AEC"):
        joint.verify(make=GrowingTeam)


class Closable(CountingAEC):
    """Notes that it was closed."""

    closed = 0

    def close(self) -> None:
        type(self).closed += 1


def test_what_make_raises_is_an_error_of_ours(counted: JointEpisode) -> None:
    def fails() -> Any:
        raise OSError("no such level")

    with pytest.raises(ReplayError, match="make= raises OSError") as caught:
        counted.verify(make=fails)
    assert isinstance(caught.value.__cause__, OSError)


def test_an_environment_is_closed_if_the_layer_around_it_cannot_be_made(
    jam: Jamboree, grown: JointEpisode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReplayError, match="recorded in a Parallel"):
        grown.verify(make=Closable)
    assert Closable.closed == 1
    env = jam.record(OrderEnforcingWrapper(Closable()))
    play_turns(env, 4)
    env.close()

    def refuse(self: Any, inner: Any) -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(OrderEnforcingWrapper, "__init__", refuse)
    with pytest.raises(ReplayError, match="not today"):
        jam.joint_episode(env.joint_id).verify()
    assert Closable.closed == 3, "of the three that were made"


def test_a_fork_of_a_fork_happens_again(jam: Jamboree, grown: JointEpisode) -> None:
    joint = grown
    for turn in (4, 2):
        forked = joint.fork(turn)
        assert forked.observations is not None
        assert list(forked.observations) == forked.env.agents
        play_steps(forked.env, 3, begin=False)
        id = forked.env.joint_id
        forked.env.close()
        joint = jam.joint_episode(id)
        assert joint.verify()
    assert joint.parent is not None
    assert joint.parent.parent == grown
    assert [one.fork_step for one in joint.summaries] == [2, 2]
    assert len(jam.joint_episodes()) == 1, "forks are experiments"
    assert len(jam.joint_episodes(forks=True)) == 3


def test_a_fork_may_do_something_else(jam: Jamboree, counted: JointEpisode) -> None:
    forked = counted.fork(3)
    env = forked.env
    while env.agents:
        _, _, terminated, truncated, _ = env.last()
        env.step(None if terminated or truncated else 2)
    child = jam.joint_episode(env.joint_id)
    assert child.verify()
    before = counted.agents["agent_0"].data().actions[1]  # what came of it was still to come
    assert child.agents["agent_0"].data().actions.tolist() == [before, 2]
    with pytest.raises(ReplayError, match="Fork it after 0 to 10"):
        counted.fork(11)
    with pytest.raises(ReplayError, match=r"no agent .* is alive"):
        counted.fork(10)


@pytest.mark.filterwarnings("ignore::UserWarning")  # its advice on spaces and renders
def test_a_replay_is_an_aec_environment(counted: JointEpisode) -> None:
    env = ReplayAEC(counted)
    env.reset()
    turns = 0
    while env.remaining:
        env.last()
        env.step(env.recorded_action)
        turns += 1
    assert turns == len(counted.turns)
    assert not env.agents
    env.reset()
    with pytest.raises(ReplayMismatch, match="at turn 0, 'agent_0' did"):
        env.step(2 - env.recorded_action if env.recorded_action != 1 else 0)
    api_test(ReplayAEC(counted, on_mismatch="ignore"))
    with pytest.raises(InvalidArgument, match="ReplayAEC plays it"):
        ReplayParallel(counted)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_replay_is_a_parallel_environment(grown: JointEpisode) -> None:
    env = ReplayParallel(grown)
    env.reset()
    while env.remaining:
        seen, rewards, *_ = env.step(env.recorded_actions)
        assert seen.keys() == rewards.keys()
    assert not env.agents
    with pytest.raises(ReplayError, match="there is no more"):
        env.step({})
    parallel_api_test(ReplayParallel(grown, on_mismatch="ignore"))
