"""`replay`: plays an episode again, and says of each step whether it is as it was recorded."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from jamboree_gym.cli.commands import (
    NO,
    EnvArgumentsOption,
    JsonOption,
    ModulesOption,
    StoreOptions,
    TrustOption,
    import_modules,
)
from jamboree_gym.cli.episode_ids import EpisodeArgument, named_episode
from jamboree_gym.cli.live_screen import show_live
from jamboree_gym.cli.looking.episodes import STEP_COLUMNS
from jamboree_gym.cli.output import as_plain, print_json, print_row, print_text, printable
from jamboree_gym.cli.playing.handed import MakeOption, handed_over
from jamboree_gym.cli.playing.joint import joint_of, replay_turns
from jamboree_gym.cli.typed_values import speed_of
from jamboree_gym.errors import InvalidArgument, ReplayMismatch
from jamboree_gym.wording import counted

if TYPE_CHECKING:
    from jamboree_gym.reading.episode import Episode
    from jamboree_gym.replay import ReplayedStep

__all__ = ["REPLAY_COLUMNS", "replay"]

REPLAY_COLUMNS = (*STEP_COLUMNS, "equal")
ON_A_TERMINAL = "10"
HEAD_LINES = 2

_Item = TypeVar("_Item")


def replay(
    store: StoreOptions,
    episode: EpisodeArgument,
    start: Annotated[int, typer.Option("--from", min=0, help="The first step to show.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="End after N steps.")
    ] = None,
    speed: Annotated[
        str | None,
        typer.Option(
            metavar="N", help="Steps a second, or max.", show_default="10 on a terminal, else max"
        ),
    ] = None,
    render: Annotated[
        bool, typer.Option("--render", help="Draw on the terminal what it renders. q ends it.")
    ] = False,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Show what was recorded; simulate nothing.")
    ] = False,
    modules: ModulesOption = None,
    arguments: EnvArgumentsOption = None,
    make: MakeOption = None,
    trust_entry_point: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Play an episode again, and say of each step whether it is as it was recorded, bit for bit.

    Of an episode with several agents, all of them are played, and a line is a turn: who acts, the
    actions, who is alive. As JSON it has number, actions, agents, other, timestamp, equal and
    difference.

    It ends at the first difference. Exit code 0: all steps are equal. 1: one differs. 2: it could
    not be simulated here; --recorded shows it all the same.

    Example: jamboree-gym replay @last --from 4 --speed 30
    """
    is_drawn = _is_drawn(render=render, json=json, recorded=recorded)
    pause_s = speed_of("--speed", speed or (ON_A_TERMINAL if sys.stdout.isatty() else "max"))
    import_modules(modules)
    with store.open() as jam:
        found = named_episode(jam, episode)
        handed = {"trust_entry_point": trust_entry_point, **handed_over(make, arguments)}
        joint = joint_of(jam, found)
        if joint is not None:
            if is_drawn:
                raise InvalidArgument("--render draws episodes of a single agent, and no others")
            replay_turns(joint, start, steps, pause_s, recorded=recorded, json=json, **handed)
            return
        _check_start(found, start)
        if recorded:
            _show_recorded(found, start, steps, pause_s, json=json)
            return
        from jamboree_gym.replay import replay_steps

        played = replay_steps(
            found,
            start=start,
            render=is_drawn,
            **handed,
        )
        try:
            shown = islice(played, steps)
            count = _draw(shown, found, pause_s) if is_drawn else _print(shown, pause_s, json=json)
        except ReplayMismatch as error:  # before the first step that is shown
            typer.echo(f"error: {printable(str(error), lines=True)}", err=True)
            raise typer.Exit(NO) from error
    if count is None:
        raise typer.Exit(NO)
    what = counted(count, "step")
    typer.echo(f"{what} played again, equal to the recording, bit for bit", err=True)


def _is_drawn(*, render: bool, json: bool, recorded: bool) -> bool:
    if not render:
        return False
    if json or recorded:
        raise InvalidArgument("choose one of --render, --json and --recorded")
    if not sys.stdout.isatty():
        raise InvalidArgument(
            "--render needs a terminal\njamboree-gym video writes what is rendered into a file"
        )
    return True


def _check_start(episode: Episode, start: int) -> None:
    total = len(episode)
    if start and start >= total:
        raise InvalidArgument(f"--from {start}: the episode has {counted(total, 'step')}")


# -- as lines -------------------------------------------------------------------------------------


def _print(played: Iterator[ReplayedStep], pause_s: float, *, json: bool) -> int | None:
    """Print each step; return how many were equal, None if one was not."""
    count = 0
    for one in _paced(played, pause_s):
        if json:
            difference = None if one else str(one.mismatch)
            print_json({**as_plain(one.step), "equal": bool(one), "difference": difference})
        elif sys.stdout.isatty():
            print_text(f"{'equal  ' if one else 'differs'} {one.step!r}")
        else:
            print_row([*(getattr(one.step, name) for name in STEP_COLUMNS), bool(one)])
        if not one:
            typer.echo(f"differs: {printable(str(one.mismatch))}", err=True)
            return None
        count += 1
    return count


def _show_recorded(
    episode: Episode, start: int, steps: int | None, pause_s: float, *, json: bool
) -> None:
    stop = None if steps is None else start + steps
    for step in _paced(iter(episode.steps(start, stop)), pause_s):
        if json:
            print_json({**as_plain(step), "equal": None, "difference": None})
        elif sys.stdout.isatty():
            print_text(repr(step))
        else:
            print_row([*(getattr(step, name) for name in STEP_COLUMNS), None])


def _paced(items: Iterator[_Item], pause_s: float) -> Iterator[_Item]:
    """Each item when it is due: small delays do not add up."""
    due = time.monotonic()
    for item in items:
        time.sleep(max(0.0, due - time.monotonic()))
        due += pause_s
        yield item
        sys.stdout.flush()


# -- drawn ----------------------------------------------------------------------------------------


def _draw(played: Iterator[ReplayedStep], episode: Episode, pause_s: float) -> int | None:
    """Draw each step; return how many were equal, None if one was not."""
    drawing = _Drawing(episode)
    show_live(lambda: drawing.lines(next(played, None)), every_s=pause_s)
    last = drawing.last
    if last is not None:
        print_text(repr(last.step))
        if not last:
            typer.echo(f"differs: {printable(str(last.mismatch))}", err=True)
            return None
    return drawing.count


class _Drawing:
    """What stands on the screen, and how far it is."""

    def __init__(self, episode: Episode) -> None:
        self.total = len(episode)
        self.earned: Any = 0.0
        self.count = 0
        self.last: ReplayedStep | None = None

    def lines(self, one: ReplayedStep | None) -> Sequence[str] | None:
        """The screen of the next step; None if there is none."""
        from jamboree_gym.cli.terminal_picture import rendered_lines
        from jamboree_gym.records import brief

        if one is None:
            return None
        self.last, self.count, self.earned = one, self.count + 1, self.earned + one.step.reward
        equal = "equal to the recording" if one else "DIFFERS from the recording"
        head = (
            f"step {one.step.index:,} of {self.total:,}  action {brief(one.step.action)}  "
            f"reward {brief(one.step.reward)}  return {brief(self.earned)}  {equal}"
        )
        columns, rows = shutil.get_terminal_size()
        return [head, "", *rendered_lines(one.frame, columns - 1, rows - HEAD_LINES)]
