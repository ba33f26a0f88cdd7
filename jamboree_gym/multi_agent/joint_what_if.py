"""Simulates how a joint episode could have continued from a turn under another policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from jamboree_gym.checked import Count, checked
from jamboree_gym.errors import ReplayError
from jamboree_gym.multi_agent.joint_episode import JointEpisode
from jamboree_gym.multi_agent.joint_fork import JointFork, forked
from jamboree_gym.multi_agent.rebuilding import put_generator_state
from jamboree_gym.multi_agent.recording.description import generator_state_of
from jamboree_gym.multi_agent.verification import ComparedRun
from jamboree_gym.progress import Progress, reported
from jamboree_gym.replay.verification.agents_as_one import LegalDraws
from jamboree_gym.replay.what_if import PERCENTILES, WHAT_IF_TAG, Predictor, worth_of_reward
from jamboree_gym.wording import one_line

__all__ = ["JointPolicy", "JointWhatIf", "what_if"]

JointPolicy: TypeAlias = Callable[[Any, Any], Any]
"""Returns an agent's action, given what it sees and its name."""
_Choose: TypeAlias = Callable[[Any, Any, Any], Any]  # given the agent, what it sees, its info
_Worth: TypeAlias = Callable[[Any], float]
_Outcome: TypeAlias = tuple[Mapping[Any, float], int]


@dataclass(frozen=True, slots=True, eq=False)
class JointWhatIf:
    """Results of another policy for all agents, from a turn of a joint episode on.

    Attributes:
        joint_id: Id of the joint episode.
        turn: Number of recorded turns before the other policy took over.
        returns: By agent float64 (n,), what it earned after that turn.
        lengths: int64 (n,), numbers of turns after that turn.
        recorded_returns: By agent, what it earned in the recording after that turn; with
            `max_turns`, in that many turns.
        recorded_length: Number of recorded turns in which it earned that.
        children: Ids of the continuations, which are joint episodes, if they were recorded.
    """

    joint_id: str
    turn: int
    returns: Mapping[Any, npt.NDArray[np.float64]]
    lengths: npt.NDArray[np.int64]
    recorded_returns: Mapping[Any, float]
    recorded_length: int
    children: tuple[str, ...] = ()

    @property
    def mean(self) -> dict[Any, float]:
        """Mean of the returns of each agent."""
        return {name: float(returns.mean()) for name, returns in self.returns.items()}

    @property
    def share_better(self) -> dict[Any, float]:
        """For each agent, the share of continuations in which it earned more: 0 to 1."""
        return {
            name: float((returns > self.recorded_returns[name]).mean())
            for name, returns in self.returns.items()
        }

    def __len__(self) -> int:
        """Number of continuations."""
        return len(self.lengths)

    def __repr__(self) -> str:
        """How many there are."""
        return f"<JointWhatIf of {len(self):,} continuations of {len(self.returns):,} agents>"

    def __str__(self) -> str:
        """The lengths in one line, and each agent in another."""
        head = (
            f"joint episode {self.joint_id} from turn {self.turn} on, {len(self):,} times: "
            f"{self.lengths.mean():.6g} turns on average; what happened: "
            f"{self.recorded_length:,} turns"
        )
        return "\n".join([head, *map(self._line, self.returns)])

    def _line(self, name: Any) -> str:
        returns = self.returns[name]
        spread = ", ".join(f"{q} %: {np.percentile(returns, q):.6g}" for q in PERCENTILES)
        return (
            f"  {one_line(str(name))}: return {returns.mean():.6g} on average ({spread}); what "
            f"happened: {self.recorded_returns[name]:.6g}; {self.share_better[name]:.0%} did better"
        )


@checked
def what_if(
    joint: JointEpisode,
    turn: Count,
    policy: JointPolicy | Predictor | None = None,
    n: int = 100,
    *,
    seed: Count = 0,
    max_turns: Count | None = None,
    deterministic: bool = True,
    weights: Sequence[float] | None = None,
    record: bool = False,
    run: str | None = None,
    tags: Mapping[str, Any] | None = None,
    make: Any = None,
    trust_entry_point: bool = False,
    progress: bool | Progress = False,
) -> JointWhatIf:
    """Fork a joint episode n times, and continue each fork under another policy of all agents.

    Each continuation plays the turns before it again, and compares them, as `fork` does. Each has
    its own noise: what is drawn at random, and the state of the environment's `np_random`, follow
    from `seed` and the number of the continuation.

    Example:
        >>> print(what_if(jam.joint_episode(id), 4, n=20))
        joint episode ... from turn 4 on, 20 times: 3.5 turns on average; what happened: 5 turns
          player_1: return 0.45 on average (5 %: -1, 50 %: 1, ...

    Args:
        joint: The joint episode.
        turn: Number of recorded turns before the policy takes over.
        policy: A function that returns an action, given what an agent sees and its name; or a model
            with `predict`, as in Stable-Baselines3, that acts for every agent. None = at random,
            only legal actions where a mask says which these are.
        n: Number of continuations.
        seed: Seed for the noise.
        max_turns: Most turns of each continuation; None = until its end.
        deterministic: Passed to `predict`.
        weights: Where a reward is several numbers: a weight for each of them in the returns.
        record: Whether to record each continuation as a child, with the tag `what_if`.
        run: Run of the children; None = the parent's.
        tags: Tags of the children, added to the parent's.
        make: As in `verify`.
        trust_entry_point: As in `verify`.
        progress: Whether to show progress on stderr; or a function that is called with the number
            of finished continuations and the total.

    Raises:
        ReplayError: As `fork`; or `n` is below 1.
        InvalidArgument: A reward is several numbers, and there is not a weight for each.
    """
    if n < 1:
        raise ReplayError(f"n={n}: a distribution needs at least one continuation")
    fork_once = partial(
        forked,
        joint,
        turn,
        run=run,
        tags={WHAT_IF_TAG: turn, **(tags or {})},
        record=record,
        make=make,
        trust_entry_point=trust_entry_point,
    )
    children: list[str] = []
    recorded: dict[Any, float] = {}

    def continuations() -> Iterator[tuple[int, _Outcome]]:
        for number in range(n):
            noise = np.random.SeedSequence([seed, number])
            fork, found = fork_once(renew=partial(_renew, noise))
            with closing(fork.env):
                worth = _worth(joint, weights)
                if number == 0:
                    recorded.update(_recorded(found, worth, turn, max_turns))
                choose = _chooser(policy, fork, noise, deterministic=deterministic)
                yield number + 1, _continue(fork, found, choose, worth, max_turns)
            if record:
                children.append(fork.env.joint_id)

    outcomes = list(reported(continuations(), n, progress, done_is="tried"))
    names = list(recorded) + [name for earned, _ in outcomes for name in earned]
    return JointWhatIf(
        joint.id,
        turn,
        {
            name: np.array([earned.get(name, 0.0) for earned, _ in outcomes], np.float64)
            for name in dict.fromkeys(names)
        },
        np.array([turns for _, turns in outcomes], np.int64),
        {name: recorded.get(name, 0.0) for name in names},
        len(joint.turns[turn:][:max_turns]),
        tuple(children),
    )


def _renew(noise: np.random.SeedSequence, env: Any) -> Mapping[str, Any] | None:
    """Give an environment the noise of a continuation; the state of its generator."""
    if generator_state_of(env) is None:
        return None
    generator: np.random.Generator = env.unwrapped.np_random
    state: Mapping[str, Any] = type(generator.bit_generator)(noise).state
    put_generator_state(env.unwrapped, state)
    return state


def _worth(joint: JointEpisode, weights: Sequence[float] | None) -> _Worth:
    first = joint.episodes[0]
    return worth_of_reward(first.id, first._rows(0, 2).rewards.shape[1:], weights)


def _chooser(
    policy: JointPolicy | Predictor | None,
    fork: JointFork,
    noise: np.random.SeedSequence,
    *,
    deterministic: bool,
) -> _Choose:
    if policy is None:
        return LegalDraws(fork.env.action_space, int(noise.generate_state(1)[0])).action
    if isinstance(policy, Predictor):
        model = policy
        return lambda agent, seen, told: model.predict(seen, deterministic=deterministic)[0]
    function = policy
    return lambda agent, seen, told: function(seen, agent)


def _recorded(
    found: ComparedRun, worth: _Worth, turn: int, max_turns: int | None
) -> dict[Any, float]:
    """What each agent earned in the recording after the turn."""
    acts: dict[Any, int] = defaultdict(int)
    for one in found.joint.turns[turn:][:max_turns]:
        for name in one.actions:
            acts[name] += 1
    earned: dict[Any, float] = {}
    for name, episode, seen in found.to_come():
        rewards = episode._rows(max(0, seen - 1)).rewards[1:]
        if max_turns is not None:
            if not seen and found.joint.api == "aec":
                acts[name] -= 1  # at its first turn, it has not earned anything yet
            rewards = rewards[: max(0, acts[name])]
            acts[name] -= len(rewards)
        earned[name] = earned.get(name, 0.0) + sum(map(worth, rewards), 0.0)
    return earned


def _continue(
    fork: JointFork, found: ComparedRun, choose: _Choose, worth: _Worth, max_turns: int | None
) -> _Outcome:
    """Run one continuation; what each agent earned in it, and its number of turns."""
    env, names = fork.env, found.run.names
    earned: dict[Any, float] = defaultdict(float)
    turns = 0
    if fork.parent.api == "aec":
        looked = set(found.last)
        while env.agents and turns != max_turns:
            name = names.of(env.agent_selection)
            seen, reward, terminated, truncated, info = env.last()
            if name in looked:  # else it has not acted yet
                earned[name] += worth(reward)
            looked.add(name)
            is_over = terminated or truncated
            env.step(None if is_over else choose(env.agent_selection, seen, info))
            turns += 1
        return earned, turns
    seen, told = fork.observations or {}, fork.infos or {}
    while env.agents and turns != max_turns:
        acting = list(env.agents)
        actions = {one: choose(one, seen.get(one), told.get(one)) for one in acting}
        seen, rewards, _, _, told = env.step(actions)
        for agent in acting:
            if agent in rewards:
                earned[names.of(agent)] += worth(rewards[agent])
        turns += 1
    return earned, turns
