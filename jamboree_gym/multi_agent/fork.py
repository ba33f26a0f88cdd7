"""A live environment of several agents that continues from any turn of a joint episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jamboree_gym.checked import Count, checked
from jamboree_gym.errors import ReplayArgument, ReplayError
from jamboree_gym.multi_agent.joint_episode import JointEpisode
from jamboree_gym.multi_agent.verification import ComparedRun, compared

__all__ = ["JointFork", "fork"]


@dataclass(frozen=True, slots=True, eq=False)
class JointFork:
    """A live environment in the state of a recorded one: step it without a reset.

    Attributes:
        env: The environment; it records, unless that was not wanted.
        parent: The joint episode that it was forked from.
        fork_turn: Number of the parent's turns before the fork.
        observations: What the agents of a Parallel environment see; None of an AEC environment,
            whose `last` says it.
        infos: The infos with these.
    """

    env: Any
    parent: JointEpisode
    fork_turn: int
    observations: Mapping[Any, Any] | None
    infos: Mapping[Any, Any] | None


@checked
def fork(
    joint: JointEpisode,
    turn: Count,
    *,
    run: str | None = None,
    tags: Mapping[str, Any] | None = None,
    record: bool = True,
    make: Any = None,
    trust_entry_point: bool = False,
) -> JointFork:
    """A live environment in the state that the recorded one had after a number of turns.

    All turns before are played and compared with the recording, so a fork never starts from a wrong
    state. What is then played is recorded as a child: each agent's episode is a fork of that
    agent's episode, and begins with what the agent saw last.

    Example:
        >>> forked = jam.joint_episode(id).fork(40)
        >>> for agent in forked.env.agent_iter():
        ...     observation, reward, terminated, truncated, info = forked.env.last()
        ...     forked.env.step(None if terminated or truncated else policy(observation))
        >>> jam.joint_episode(forked.env.joint_id).parent.id == id
        True

    Args:
        joint: The parent. It may still be running, and it may be a fork itself.
        turn: Number of turns before the fork.
        run: Run of the child; None = the parent's.
        tags: Tags of the child, added to the parent's.
        record: Whether to record the child.
        make: As in `verify`.
        trust_entry_point: As in `verify`.

    Raises:
        ReplayError: There is no such turn, or the environment cannot be made here, or its second
            run differs; says why, and names the first difference.
    """
    count = len(joint.turns)
    if turn > count:
        raise ReplayArgument(
            f"turn={turn}: joint episode {joint.id} has {count:,} turns. "
            f"Fork it after 0 to {count}."
        )
    found = compared(joint, make, turns=turn, trust_entry_point=trust_entry_point)
    env = found.run.env
    try:
        if found.mismatch is not None:
            whose = "" if found.agent is None else f"agent {found.agent!r}, "
            raise ReplayError(
                f"joint episode {joint.id} does not happen again, so it cannot be forked: at turn "
                f"{found.turn}, {whose}{found.mismatch}"
            )
        if not env.agents:
            raise ReplayArgument(
                f"turn={turn}: no agent of joint episode {joint.id} is alive after it. Fork it "
                "earlier."
            )
        seen = {agent: found.last.get(found.run.names.of(agent)) for agent in env.agents}
        if record:
            env = _recorded(found, turn, run, tags)
    except BaseException:
        env.close()
        raise
    if joint.api == "aec":
        return JointFork(env, joint, turn, None, None)
    looks = {agent: look for agent, look in seen.items() if look is not None}
    return JointFork(
        *(env, joint, turn),
        {agent: look.observation for agent, look in looks.items()},
        {agent: look.info for agent, look in looks.items()},
    )


def _recorded(
    found: ComparedRun, turn: int, run: str | None, tags: Mapping[str, Any] | None
) -> Any:
    """The environment, with a recorder that continues where it is."""
    from jamboree_gym.multi_agent.recording.record_aec import RecordAEC  # these load PettingZoo
    from jamboree_gym.multi_agent.recording.record_parallel import RecordParallel

    joint = found.joint
    first = joint.summaries[0]
    own = {name: tag for name, tag in first.tags.items() if name not in _SET_BY_RECORDER}
    kind = RecordAEC if joint.api == "aec" else RecordParallel
    recorder = kind(
        found.run.env,
        joint.episodes[0]._connection,
        run=first.run if run is None else run,
        tags={**own, **(tags or {})},
    )
    recorder._begin_child(found, {"parent": joint.id, "fork_turn": turn})
    return recorder


_SET_BY_RECORDER = ("agent", "joint")
