"""Policies that are named on a command line: random, a file, a function, a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jamboree_gym.cli.playing.handed import named
from jamboree_gym.errors import InvalidArgument
from jamboree_gym.wording import did_you_mean

if TYPE_CHECKING:
    import gymnasium as gym

    from jamboree_gym.jamboree import Jamboree

__all__ = ["RANDOM", "AlgorithmOption", "policy_of_checkpoint", "policy_of_text"]

RANDOM = "random"
AlgorithmOption = Annotated[
    str, typer.Option("--algo", help="The algorithm of Stable-Baselines3: ppo, dqn, sac, ...")
]


def policy_of_text(text: str, space: gym.Space[Any], *, algorithm: str) -> Any:
    """A function that returns an action for an observation, or a model with `predict`.

    Args:
        text: `random`, a zip file of Stable-Baselines3, or `module:callable`.
        space: The actions.
        algorithm: Of the zip file.

    Raises:
        InvalidArgument: It is none of these, or cannot be loaded.
        MissingExtra: Stable-Baselines3 is not installed.
    """
    if text == RANDOM:
        return lambda observation: space.sample()
    if text.endswith(".zip"):
        return _loaded(Path(text), algorithm)
    if ":" not in text:
        raise InvalidArgument(
            f"--policy {text}: give random, a .zip file, or module:callable"
            f"{did_you_mean(text, [RANDOM])}"
        )
    found = named("--policy", text)
    if not (callable(found) or hasattr(found, "predict")):
        raise InvalidArgument(f"--policy {text} cannot be called with an observation")
    return found


def _loaded(path: Path, algorithm: str) -> Any:
    if not path.is_file():
        raise InvalidArgument(f"--policy {path}: there is no such file")
    from jamboree_gym.integrations.sb3.training.starting import algorithm_named

    kind: Any = algorithm_named(algorithm)
    try:
        return kind.load(path, device="cpu")
    except Exception as error:
        raise InvalidArgument(
            f"--policy {path} is no model of {algorithm}: {error}\n--algo names another algorithm"
        ) from error


def policy_of_checkpoint(jam: Jamboree, run: str, number: int) -> Any:
    """The model of a checkpoint.

    Raises:
        CheckpointNotFound: There is no such checkpoint.
        MissingExtra: Stable-Baselines3 is not installed.
    """
    from jamboree_gym.integrations.sb3.training.starting import algorithm_named

    checkpoint = jam.run(run).checkpoint(number)
    return checkpoint.load(algorithm_named(checkpoint.algorithm), device="cpu")
