"""The run's name and a link to it, in the logs of other tools; nothing more."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Final

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

from jamboree_gym.connection import Connection
from jamboree_gym.keys import quote_part

__all__ = ["link_of", "link_run"]

_TEXT: Final = "jamboree/run"

log = logging.getLogger(__name__)


def link_of(jam: Connection, run: str) -> str:
    """Which run, in which namespace, on which Redis; no password.

    Example:
        >>> link_of(jam, "ppo")
        'jamboree://localhost%3A6379/jamboree/ppo'
    """
    parts = (jam.store.where, jam.keyspace.namespace, run)
    return "jamboree://" + "/".join(map(quote_part, parts))


def link_run(jam: Connection, run: str, logger: Logger, timesteps: int) -> None:
    """Tell TensorBoard, and W&B and MLflow where a run of theirs is active, which run this is.

    If one of them refuses, there is a warning, and training continues.
    """
    link = link_of(jam, run)
    for name, add_link in (
        ("TensorBoard", lambda: _add_to_tensorboard(logger, run, link, timesteps)),
        ("W&B", lambda: _add_to_wandb(run, link)),
        ("MLflow", lambda: _add_to_mlflow(run, link)),
    ):
        _try(name, add_link)


def _try(name: str, add_link: Callable[[], None]) -> None:
    try:
        add_link()
    except Exception as error:  # noqa: BLE001 - whatever they raise, the run is recorded
        log.warning("%s was not told of the run: %r", name, error)


def _add_to_tensorboard(logger: Logger, run: str, link: str, timesteps: int) -> None:
    for one in logger.output_formats:
        if isinstance(one, TensorBoardOutputFormat):
            one.writer.add_text(_TEXT, f"{run} ({link})", timesteps)
            one.writer.flush()


def _add_to_wandb(run: str, link: str) -> None:
    active = getattr(sys.modules.get("wandb"), "run", None)  # who uses it has loaded it
    if active is not None:
        fields = {"jamboree_run": run, "jamboree_link": link}
        active.config.update(fields, allow_val_change=True)


def _add_to_mlflow(run: str, link: str) -> None:
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.active_run() is not None:
        mlflow.set_tags({"jamboree.run": run, "jamboree.link": link})
