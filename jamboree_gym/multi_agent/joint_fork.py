"""A live environment of several agents that continues from any turn of a joint episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jamboree_gym.checked import Count, checked
from jamboree_gym.errors import ReplayArgument, ReplayError
from jamboree_gym.multi_agent.joint_episode import JointEpisode
from jamboree_gym.multi_agent.verification import ComparedRun, compared

__all__ = ["JointFork", "Renew", "fork", "forked"]

Renew = Callable[[Any], Mapping[str, Any] | None]
"""Changes the generator of an environment; returns its new state, or None if it has none."""


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
    options: dict[str, Any] = {"make": make, "trust_entry_point": trust_entry_point}
    return forked(joint, turn, run=run, tags=tags, record=record, **options)[0]


def forked(
    joint: JointEpisode,
    turn: int,
    *,
    run: str | None,
    tags: Mapping[str, Any] | None,
    record: bool,
    make: Any,
    trust_entry_point: bool,
    renew: Renew | None = None,
) -> tuple[JointFork, ComparedRun]:
    """As `fork`, with the second run that has led there.

    Args:
        joint: As in `fork`, and so are the other arguments that are not named here.
        turn: As in `fork`.
        run: As in `fork`.
        tags: As in `fork`.
        record: As in `fork`.
        make: As in `fork`.
        trust_entry_point: As in `fork`.
        renew: Gives the environment another noise, before anything is recorded.
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
            raise ReplayError(
                f"joint episode {joint.id} does not happen again, so it cannot be forked: "
                f"{found.difference}"
            )
        if not env.agents:
            raise ReplayArgument(
                f"turn={turn}: no agent of joint episode {joint.id} is alive after it. Fork it "
                "earlier."
            )
        seen = {agent: found.last.get(found.run.names.of(agent)) for agent in env.agents}
        state = None if renew is None else renew(env)
        if record:
            env = _recorded(found, turn, run, tags, state)
    except BaseException:
        env.close()
        raise
    if joint.api == "aec":
        return JointFork(env, joint, turn, None, None), found
    looks = {agent: look for agent, look in seen.items() if look is not None}
    observations = {agent: look.observation for agent, look in looks.items()}
    infos = {agent: look.info for agent, look in looks.items()}
    return JointFork(env, joint, turn, observations, infos), found


def _recorded(
    found: ComparedRun,
    turn: int,
    run: str | None,
    tags: Mapping[str, Any] | None,
    state: Mapping[str, Any] | None,
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
    origin: dict[str, Any] = {"parent": joint.id, "fork_turn": turn}
    if state is not None:
        origin["rng_state"] = recorder._recorder.packed(state)
    recorder._begin_child(found, origin)
    return recorder


_SET_BY_RECORDER = ("agent", "joint")
