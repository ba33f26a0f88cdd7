"""Other policies from a turn of a joint episode on, and videos of joint episodes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from teams import CountingAEC, GrowingTeam, play_steps, play_turns

from jamboree_gym import Jamboree
from jamboree_gym.errors import InvalidArgument, ReplayError
from jamboree_gym.multi_agent import JointEpisode


class ShownAEC(CountingAEC):
    """Draws how many turns there were; without a seed it goes on counting."""

    metadata = {"render_modes": ["rgb_array"], "name": "shown_v0", "render_fps": 5}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, start: int = 0) -> None:
        super().__init__((3, 5))
        self._ezpickle_args, self._ezpickle_kwargs = (), {"start": start}
        self.start, self.count, self.shown = start, start, render_mode

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        before = self.start if seed is not None else self.count
        super().reset(seed, options)
        self.count = before

    def render(self) -> Any:
        return None if self.shown is None else np.full((16, 16, 3), 4 * self.count, np.uint8)


def recorded(jam: Jamboree, env: Any, seeds: tuple[int | None, ...] = (1,)) -> JointEpisode:
    """The last of some joint episodes, one for each seed."""
    env = jam.record(env)
    play = play_turns if hasattr(env, "agent_iter") else play_steps
    for seed in seeds:
        play(env, 100, seed)
    env.close()
    return jam.joint_episode(env.joint_id)


def as_recorded(joint: JointEpisode, turn: int) -> Any:
    """A policy that does what was done."""
    left: dict[Any, list[Any]] = defaultdict(list)
    for one in joint.turns[turn:]:
        for agent, action in one.actions.items():
            left[agent].append(action)
    return lambda seen, agent: left[agent].pop(0)


@pytest.mark.parametrize("max_turns", [None, 3])
@pytest.mark.parametrize("turn", [0, 3])
def test_the_same_actions_earn_the_same(jam: Jamboree, turn: int, max_turns: int | None) -> None:
    joint = recorded(jam, CountingAEC((3, 5)))
    found = joint.what_if(turn, as_recorded(joint, turn), n=1, max_turns=max_turns)
    assert {name: float(one[0]) for name, one in found.returns.items()} == found.recorded_returns
    assert found.lengths.tolist() == [found.recorded_length]
    assert found.recorded_length == (max_turns or len(joint.turns) - turn)
    if turn == 0 and max_turns is None:
        assert found.recorded_returns == joint.returns
    assert set(found.share_better.values()) == {0.0}


def test_each_continuation_has_its_own_noise_which_its_child_repeats(jam: Jamboree) -> None:
    joint = recorded(jam, GrowingTeam())
    found = joint.what_if(2, n=3, seed=4, record=True, tags={"why": "noise"})
    assert list(found.returns) == ["a", "b", "c"]
    assert len(set(found.returns["b"].tolist())) == 3
    for id in found.children:
        child = jam.joint_episode(id)
        assert child.verify()
        assert (child.parent, child.fork_turn) == (joint, 2)
        tags = child.summaries[0].tags
        assert (tags["what_if"], tags["why"]) == (2, "noise")
    again = joint.what_if(2, n=3, seed=4)
    assert all(np.array_equal(again.returns[name], found.returns[name]) for name in found.returns)
    grandchild = jam.joint_episode(found.children[0]).fork(1)
    play_steps(grandchild.env, 2, begin=False)
    grandchild.env.close()
    assert jam.joint_episode(grandchild.env.joint_id).verify()


def test_a_model_acts_for_every_agent(jam: Jamboree) -> None:
    class Model:
        def predict(self, observation: Any, *, deterministic: bool) -> tuple[Any, None]:
            assert deterministic
            return 2, None

    joint = recorded(jam, CountingAEC((3, 5)))
    found = joint.what_if(0, Model(), n=1)
    assert found.mean["agent_0"] > found.recorded_returns["agent_0"]
    assert found.share_better["agent_0"] == 1.0
    text = str(found)
    assert text.splitlines()[0].startswith(f"joint episode {joint.id} from turn 0 on, 1 times: ")
    assert "  agent_0: return " in text


def test_what_cannot_be_continued_says_why(jam: Jamboree) -> None:
    joint = recorded(jam, CountingAEC((3, 5)))
    with pytest.raises(ReplayError, match="Fork it after 0 to 10"):
        joint.what_if(11)
    with pytest.raises(ReplayError, match="at least one continuation"):
        joint.what_if(1, n=0)
    with pytest.raises(InvalidArgument, match="max_turns"):
        joint.what_if(1, max_turns=-1)


def test_a_module_does_not_hide_the_function_of_its_name(jam: Jamboree) -> None:
    from jamboree_gym import multi_agent

    joint = recorded(jam, CountingAEC((3, 5)))
    joint.fork(1, record=False).env.close()
    for name in ("fork", "what_if", "video", "verify"):
        assert callable(getattr(multi_agent, name)), name


def frames_of(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [int(one.to_ndarray(format="rgb24")[0, 0, 0]) for one in container.decode(video=0)]


def test_a_video_shows_each_turn(jam: Jamboree, tmp_path: Path) -> None:
    joint = recorded(jam, ShownAEC())
    told: list[tuple[int, int]] = []
    written = joint.video(tmp_path / "all.gif", progress=lambda *now: told.append(now))
    assert written
    assert written.frames == len(joint.turns) + 1 == len(told)
    counts = [one // 4 for one in frames_of(written.path)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == 8


def test_a_video_of_an_unseeded_episode_shows_only_that_one(jam: Jamboree, tmp_path: Path) -> None:
    joint = recorded(jam, ShownAEC(), (1, None))
    assert joint.predecessor is not None
    written = joint.video(tmp_path / "second.gif")
    assert written
    counts = [one // 4 for one in frames_of(written.path)]
    assert (len(counts), counts[0], counts[-1]) == (len(joint.turns) + 1, 8, 16)


def test_a_video_of_a_fork_begins_at_the_fork(jam: Jamboree, tmp_path: Path) -> None:
    joint = recorded(jam, ShownAEC())
    fork = joint.fork(3)
    play_turns(fork.env, 2, begin=False)
    fork.env.close()
    child = jam.joint_episode(fork.env.joint_id)
    written = child.video(tmp_path / "fork.gif")
    assert [one // 4 for one in frames_of(written.path)] == [3, 4, 5]


def test_a_video_of_what_differs_is_not_written_unless_it_is_wanted(
    jam: Jamboree, tmp_path: Path
) -> None:
    joint = recorded(jam, ShownAEC())

    def other() -> Any:
        return ShownAEC("rgb_array", start=1)

    path = tmp_path / "other.gif"
    with pytest.raises(ReplayError, match="does not happen again: at turn 0, agent 'agent_0'"):
        joint.video(path, make=other)
    assert not path.exists()
    written = joint.video(path, make=other, unverified=True)
    assert not written
    assert written.frames == len(joint.turns) + 1
    assert "unverified: joint episode" in str(written)


def test_what_cannot_be_rendered_is_an_error_of_ours(jam: Jamboree, tmp_path: Path) -> None:
    joint = recorded(jam, ShownAEC())
    with pytest.raises(ReplayError, match="frame 0 is no picture"):
        joint.video(tmp_path / "none.gif", make=ShownAEC)
    assert not list(tmp_path.iterdir())
