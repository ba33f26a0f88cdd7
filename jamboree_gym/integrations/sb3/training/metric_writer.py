"""What SB3 logs -> records of the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter

from jamboree_gym.runs.metrics import MetricHandler

__all__ = ["MetricWriter"]

NAME: Final = "jamboree"
_KEPT: Final = (bool, int, float, str, np.generic, np.ndarray)

log = logging.getLogger(__name__)


class MetricWriter(KVWriter):
    """An output format of SB3's logger: numbers, texts and arrays; no pictures.

    What is logged with `exclude="jamboree"` is left out.

    Args:
        handler: Where to.
        session: Id of the session.
    """

    def __init__(self, handler: MetricHandler, session: str) -> None:
        self._handler = handler
        self._session = session
        self._left_out: set[str] = set()

    def write(
        self,
        key_values: Mapping[str, Any],
        key_excluded: Mapping[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Keep what is logged at this timestep."""
        values = {
            name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
            for name, value in key_values.items()
            if NAME not in (key_excluded.get(name) or ())
        }
        kept = {name: value for name, value in values.items() if isinstance(value, _KEPT)}
        self._warn_of(values.keys() - kept.keys())
        if kept:
            self._handler.put(step, session=self._session, values=kept)

    def _warn_of(self, names: set[str]) -> None:
        new = names - self._left_out
        if new:
            self._left_out |= new
            log.warning("not kept, as they are neither numbers nor texts: %s", ", ".join(new))

    def close(self) -> None:
        """Nothing is open."""
