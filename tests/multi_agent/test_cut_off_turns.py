"""Several agents, and a call that is cut off: by a Ctrl-C, by Redis, or by the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Server
from teams import CountingAEC, GrowingTeam, play_steps, play_turns

from jamboree_gym import Jamboree
from jamboree_gym.errors import JamboreeClosed, StoreUnavailable

OpenJamboree = Callable[..., Jamboree]


class CtrlC:
    """Stands for a Ctrl-C that comes while the value is recorded."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise KeyboardInterrupt


class CutOffAEC(CountingAEC):
    """A Ctrl-C comes after the third turn: when the next agent looks, or `in_turn` before that."""

    in_turn = False
    is_due = False

    @property
    def agents(self) -> list[Any]:
        if self.in_turn and self.is_due:
            self.is_due = False
            raise KeyboardInterrupt
        return self._agents

    @agents.setter
    def agents(self, agents: list[Any]) -> None:
        self._agents = agents

    def step(self, action: Any) -> None:
        super().step(action)
        self.is_due = self.count == 3
        if self.is_due and not self.in_turn:
            self.infos[self.agent_selection]["odd"] = CtrlC()


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_ctrl_c_while_a_turn_is_recorded_leaves_no_gap(jam: Jamboree, in_turn: bool) -> None:
    base = CutOffAEC()
    base.in_turn = in_turn
    env = jam.record(base)
    with pytest.raises(KeyboardInterrupt):
        play_turns(env, 8)
    base.infos = {agent: {} for agent in base.possible_agents}
    play_turns(env, 4, begin=False)
    jam.flush()

    joint = jam.joint_episode(env.joint_id)
    assert joint.status == "abandoned"
    for episode in joint.episodes:  # each sees how many turns there were: two more each time
        seen = episode.data().observations[:, 0]
        assert set(np.diff(seen)) <= {2.0}


def test_a_ctrl_c_while_a_reset_is_recorded_leaves_nothing_behind(jam: Jamboree) -> None:
    class CutOffReset(CutOffAEC):
        in_turn = True

        def reset(self, seed: int | None = None, options: Any = None) -> None:
            super().reset(seed, options)
            self.is_due = True

    env = jam.record(CutOffReset())
    with pytest.raises(KeyboardInterrupt):
        env.reset(seed=1)
    play_turns(env, 2, begin=False)
    jam.flush()

    assert jam.episodes().ids() == []


def test_what_follows_a_turn_that_failed_is_not_said_to_follow_it(jam: Jamboree) -> None:
    env = jam.record(CountingAEC())
    env.reset(seed=1)
    env.last()
    with pytest.raises(ValueError, match="illegal"):
        env.step(7)
    env.step(1)
    play_turns(env, 2, seed=None)
    jam.flush()

    assert jam.joint_episode(env.joint_id).predecessor is None


def test_a_step_whose_turn_cannot_be_stored_says_that_the_environment_has_moved(
    open_jamboree: OpenJamboree,
) -> None:
    jam = open_jamboree()
    env = jam.record(CountingAEC())
    play_turns(env, 3)
    jam.close()

    with pytest.raises(JamboreeClosed) as caught:
        env.step(1)
    assert caught.value.returned is not None
    env.close()


@pytest.mark.faults
@pytest.mark.parametrize(("make", "play"), [(CountingAEC, play_turns), (GrowingTeam, play_steps)])
def test_ends_that_redis_does_not_confirm_are_said_when_the_environment_is_closed(
    durable_valkey: Server, open_jamboree: OpenJamboree, make: Any, play: Any
) -> None:
    jam = open_jamboree(durable_valkey.url, write="sync")
    env = jam.record(make())
    play(env, 3)
    durable_valkey.kill()

    with pytest.raises(StoreUnavailable, match="waits in memory until Redis takes it"):
        env.close()
    env.close()
    durable_valkey.start()


@pytest.mark.faults
def test_of_a_fork_that_could_not_be_stored_nothing_is_running(
    durable_valkey: Server, open_jamboree: OpenJamboree
) -> None:
    jam = open_jamboree(durable_valkey.url, write="sync")
    env = jam.record(CountingAEC())
    play_turns(env, 6)
    env.close()

    class Killing(CountingAEC):
        def observation_space(self, agent: Any) -> Any:
            if self.count == 3:  # the recorder of the fork is made
                durable_valkey.kill()
            return super().observation_space(agent)

    with pytest.raises(StoreUnavailable):
        jam.joint_episode(env.joint_id).fork(3, make=Killing)
    durable_valkey.start()
    jam.flush()

    children = [one for one in jam.episodes(forks=True).summaries() if one.parent is not None]
    assert {one.status for one in children} == {"abandoned"}
