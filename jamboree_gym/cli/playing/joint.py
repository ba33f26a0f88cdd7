"""Joint episodes in the commands that play: all agents of an environment together."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jamboree_gym.cli.commands import NO
from jamboree_gym.cli.output import print_json, print_row, print_text, printable
from jamboree_gym.errors import DecodeError, EpisodeNotFound, InvalidArgument, ReplayError
from jamboree_gym.wording import counted

if TYPE_CHECKING:
    from jamboree_gym.jamboree import Jamboree
    from jamboree_gym.multi_agent import JointEpisode, JointReport, JointWhatIf, Turn
    from jamboree_gym.reading.episode import Episode
    from jamboree_gym.reading.query import EpisodeQuery
    from jamboree_gym.replay import Video

__all__ = [
    "TURN_COLUMNS",
    "code_of_fork",
    "code_of_make",
    "fork_of",
    "joint_of",
    "parted",
    "replay_turns",
    "verified",
    "video_of",
    "what_if_of",
]

TURN_COLUMNS = ("number", "agents_acting", "actions", "agents_alive", "timestamp", "equal")


# -- which are joint ------------------------------------------------------------------------------


def joint_of(jam: Jamboree, episode: Episode) -> JointEpisode | None:
    """The joint episode that an episode belongs to; None if there was only one agent."""
    from jamboree_gym.handlers.turns import JOINT_TAG

    tags = episode.summary.tags
    return jam.joint_episode(episode) if JOINT_TAG in tags else None


def parted(
    jam: Jamboree, chosen: EpisodeQuery | Sequence[Episode]
) -> tuple[EpisodeQuery | list[Episode], list[JointEpisode]]:
    """What was chosen: episodes of single agents, and the joint episodes of the others."""
    from jamboree_gym.handlers.turns import JOINT_TAG
    from jamboree_gym.multi_agent import joint_episodes
    from jamboree_gym.reading.query import EpisodeQuery, found_by

    if isinstance(chosen, EpisodeQuery):
        _, found = found_by(chosen, is_complete=False)
        joint = [one.id for one in found if JOINT_TAG in one.decoded_tags()]
        if not joint:
            return chosen, []
        alone = [one.id for one in found if one.id not in set(joint)]
    else:
        joint = [one.id for one in chosen if _is_of_an_agent(one)]
        alone = [one.id for one in chosen if one.id not in joint]
    whole = joint_episodes(map(jam.episode, joint))
    return [jam.episode(id) for id in alone], whole


def _is_of_an_agent(episode: Episode) -> bool:
    """Whether it is one agent's; False where that cannot be read: its own report says why."""
    from jamboree_gym.handlers.turns import JOINT_TAG

    try:
        return JOINT_TAG in episode.summary.tags
    except (DecodeError, EpisodeNotFound):
        return False


# -- what is done with them -----------------------------------------------------------------------


def verified(joint: JointEpisode, *, rtol: float, atol: float, **handed: Any) -> JointReport:
    """The report on a joint episode; what hinders the simulation stands in it, too."""
    from jamboree_gym.multi_agent import JointReport

    try:
        with _in_words_of_a_shell():
            return joint.verify(rtol=rtol, atol=atol, **_made(**handed))
    except ReplayError as error:
        return JointReport(joint.id, 0, error=str(error))


def replay_turns(
    joint: JointEpisode,
    start: int,
    number: int | None,
    pause_s: float,
    *,
    recorded: bool,
    json: bool,
    **handed: Any,
) -> None:
    """Print each turn, and whether the simulation took it in the same way.

    Raises:
        InvalidArgument: There is no such turn.
        ReplayError: It cannot be simulated here.
        typer.Exit: A turn differs.
    """
    turns = joint.turns
    if start and start >= len(turns):
        raise InvalidArgument(
            f"--from {start}: the joint episode has {counted(len(turns), 'turn')}"
        )
    differs, difference = len(turns), None
    if not recorded:
        with _in_words_of_a_shell():
            report = joint.verify(**_made(**handed))
        if report.turn is not None:
            whose = "" if report.agent is None else f"agent {report.agent!r}, "
            differs, difference = report.turn, f"at turn {report.turn}: {whose}{report.mismatch}"
    shown = turns[start : differs + 1]
    for turn in _paced(islice(shown, number), pause_s):
        _print_turn(turn, None if recorded else turn.number < differs, difference, json=json)
    if difference is not None and (number is None or differs < start + number):
        typer.echo(f"differs {printable(difference)}", err=True)
        raise typer.Exit(NO)
    if not recorded:
        what = counted(len(shown[:number]), "turn")
        typer.echo(f"{what} played again, equal to the recording, bit for bit", err=True)


def _paced(turns: Iterator[Turn], pause_s: float) -> Iterator[Turn]:
    for turn in turns:
        yield turn
        sys.stdout.flush()
        time.sleep(pause_s)


def _print_turn(turn: Turn, equal: bool | None, difference: str | None, *, json: bool) -> None:
    from jamboree_gym.records import brief

    acting, alive = list(map(str, turn.actions)), list(map(str, turn.agents))
    actions = list(turn.actions.values())
    if json:
        told = difference if equal is False else None
        print_json({"number": turn.number, "actions": dict(zip(acting, actions, strict=True)),
                    "agents": alive, "other": turn.other, "timestamp": turn.timestamp,
                    "equal": equal, "difference": told})  # fmt: skip
    elif sys.stdout.isatty():
        how = {None: "", True: "equal   ", False: "differs "}[equal]
        did = ", ".join(f"{who} {brief(what)}" for who, what in zip(acting, actions, strict=True))
        print_text(f"{how}turn {turn.number}: {did}; alive: {', '.join(alive) or 'nobody'}")
    else:
        print_row([turn.number, acting, actions, alive, turn.timestamp, equal])


def what_if_of(
    joint: JointEpisode,
    turn: int,
    policy: Any,
    n: int,
    *,
    handed: Mapping[str, Any],
    **options: Any,
) -> JointWhatIf:
    """How it could have continued.

    Raises:
        ReplayError: It cannot be simulated here; says why.
    """
    with _in_words_of_a_shell():
        return joint.what_if(turn, policy, n, **options, **_made(**handed))


def video_of(
    joint: JointEpisode, path: Path, *, handed: Mapping[str, Any], **options: Any
) -> Video:
    """Write it into a video file.

    Raises:
        ReplayError: It cannot be simulated or rendered here, or differs; says why.
    """
    with _in_words_of_a_shell():
        return joint.video(path, **options, **_made(**handed))


def fork_of(joint: JointEpisode, turn: int, **handed: Any) -> None:
    """Fork it, to see whether that works; nothing is recorded.

    Raises:
        ReplayError: It does not; says why.
    """
    with _in_words_of_a_shell():
        joint.fork(turn, record=False, **_made(**handed)).env.close()


def code_of_fork(joint: JointEpisode, given: Sequence[str]) -> list[str]:
    """The code that continues it."""
    head = [
        f"forked = jam.joint_episode({joint.id!r}).fork({', '.join(given)})",
        "env = forked.env",
    ]
    if joint.api == "parallel":
        return [
            *head,
            "print(forked.observations)  # what the first actions answer",
            "actions = {agent: env.action_space(agent).sample() for agent in env.agents}",
            "observations, rewards, terminated, truncated, infos = env.step(actions)",
        ]
    mask = ""
    if _has_masks(joint):
        mask = 'observation["action_mask"]'
    return [
        *head,
        "agent = env.agent_selection  # whose turn it is",
        "observation, reward, terminated, truncated, info = env.last()",
        f"action = env.action_space(agent).sample({mask})",
        "env.step(None if terminated or truncated else action)",
    ]


def code_of_make(make: str | None, arguments: Mapping[str, Any] | None) -> list[str]:
    """What the code hands over."""
    if make is None:
        return []
    name = make.replace(":", ".")
    given = ", ".join(f"{one}={value!r}" for one, value in (arguments or {}).items())
    return [f"make=lambda: {name}({given})" if given else f"make={name}"]


def _has_masks(joint: JointEpisode) -> bool:
    import gymnasium as gym

    space = joint.episodes[0].observation_space
    return isinstance(space, gym.spaces.Dict) and "action_mask" in space.spaces


# -- what is handed over --------------------------------------------------------------------------


def _made(
    *, make: Any, env_kwargs: Mapping[str, Any] | None, trust_entry_point: bool
) -> dict[str, Any]:
    """The arguments of a second run; arguments of the environment are those of `make`."""
    if env_kwargs and make is None:
        raise InvalidArgument(
            "--arg: a joint episode knows the arguments of its environment; --make module:function "
            "takes others"
        )
    return {
        "make": partial(make, **env_kwargs) if env_kwargs else make,
        "trust_entry_point": trust_entry_point,
    }


@contextmanager
def _in_words_of_a_shell() -> Iterator[None]:
    """Errors of the library that name options of a command instead of Python calls."""
    try:
        yield
    except ReplayError as error:
        text = re.sub(
            r"(joint\.)?verify\(make=lambda: \.\.\.\)", "--make module:function", str(error)
        )
        text = re.sub(r"^import (\S+) before", r"give --import \1", text, flags=re.MULTILINE)
        raise type(error)(text) from error
