"""`what-if`: how an episode could have gone on under another policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jamboree_gym.cli.commands import (
    EnvArgumentsOption,
    JsonOption,
    ModulesOption,
    StoreOptions,
    TrustOption,
    WeightsOption,
    import_modules,
    progress_bar,
)
from jamboree_gym.cli.episode_ids import EpisodeArgument, named_episode
from jamboree_gym.cli.output import as_plain, print_json, print_lines, print_text
from jamboree_gym.cli.playing.handed import MakeOption, handed_over
from jamboree_gym.cli.playing.joint import joint_of, what_if_of
from jamboree_gym.cli.playing.policies import (
    RANDOM,
    AlgorithmOption,
    policy_of_checkpoint,
    policy_of_text,
)
from jamboree_gym.cli.typed_values import weights_of
from jamboree_gym.errors import InvalidArgument

if TYPE_CHECKING:
    from jamboree_gym.multi_agent import JointWhatIf
    from jamboree_gym.replay import WhatIf

__all__ = ["what_if"]

BINS = 30
_AS_OF_ONE = {"joint_id": "episode_id", "turn": "step", "recorded_returns": "recorded_return"}


def what_if(
    store: StoreOptions,
    episode: EpisodeArgument,
    step: Annotated[int, typer.Option(min=0, help="Number of steps before it continues.")],
    policy: Annotated[
        str | None,
        typer.Option(help="random, a .zip of Stable-Baselines3, or module:callable.", metavar="P"),
    ] = None,
    checkpoint: Annotated[
        int | None, typer.Option(min=0, help="Number of a checkpoint of the episode's run.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of continuations.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Most steps of a continuation.", show_default="its end"),
    ] = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="Draw the actions of a model, not its best ones.")
    ] = False,
    weights: WeightsOption = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record each continuation, as a fork.")
    ] = False,
    algorithm: AlgorithmOption = "ppo",
    modules: ModulesOption = None,
    arguments: EnvArgumentsOption = None,
    make: MakeOption = None,
    trust_entry_point: TrustOption = False,
    json: JsonOption = False,
) -> None:
    """Continue an episode from a step many times under another policy: the returns that follow.

    A checkpoint or a zip file is loaded by Stable-Baselines3, which may run code in it. Of an
    episode with several agents, a step is a turn, and the policy acts for all of them; a callable
    gets what an agent sees and its name.

    Example: jamboree-gym what-if @last --step 4 --policy random -n 5
    """
    if (policy is None) == (checkpoint is None):
        raise InvalidArgument("say which policy: --policy, or --checkpoint with its number")
    import_modules(modules)
    rebuilt = {"trust_entry_point": trust_entry_point, **handed_over(make, arguments)}
    from jamboree_gym.replay import what_if as continuations

    with store.open() as jam, progress_bar("continuing") as progress:
        parent = named_episode(jam, episode)
        joint = joint_of(jam, parent)
        if checkpoint is not None:
            chosen = policy_of_checkpoint(jam, parent.summary.run, checkpoint)
        elif joint is not None and policy == RANDOM:
            chosen = None  # each agent has its own actions
        else:
            space = parent.action_space
            space.seed(seed)
            chosen = policy_of_text(str(policy), space, algorithm=algorithm)
        options: dict[str, Any] = {
            "seed": seed,
            "deterministic": not draw,
            "weights": None if weights is None else weights_of(weights),
            "record": record,
            "progress": progress,
        }
        found: WhatIf | JointWhatIf
        if joint is None:
            found = continuations(
                parent, step, chosen, n, max_steps=max_steps, **options, **rebuilt
            )
        else:
            options["max_turns"] = max_steps
            found = what_if_of(joint, step, chosen, n, **options, handed=rebuilt)
    if json:
        told = as_plain(found)
        told = {_AS_OF_ONE.get(name, name): one for name, one in told.items()}
        print_json({"mean": found.mean, "share_better": found.share_better, **told})
        return
    print_lines(str(found).replace("deterministic=False", "--draw"))
    if isinstance(found.returns, Mapping):
        for name, returns in found.returns.items():
            print_text(f"{name}: {_histogram(returns)}")
    else:
        print_text(_histogram(found.returns))


def _histogram(returns: Any) -> str:
    """How often the returns are between the lowest and the highest."""
    import numpy as np

    from jamboree_gym.tables.histogram import histogram
    from jamboree_gym.tables.text_table import number, sparkline

    finite = returns[np.isfinite(returns)]
    if not len(finite):
        return "no return is a finite number"
    counts, _ = histogram(finite, min(BINS, len(finite)))
    return f"returns {number(finite.min())} {sparkline(counts.tolist())} {number(finite.max())}"
