"""The checkpoints that the callback makes of a model."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from pickle import PicklingError

from stable_baselines3.common.base_class import BaseAlgorithm

from jamboree_gym.environment.provenance import class_name
from jamboree_gym.errors import InvalidRecord, StoreUnavailable
from jamboree_gym.runs.checkpoints import CheckpointHandler

__all__ = ["ModelCheckpoints"]


class ModelCheckpoints:
    """Saves a model that learns.

    Args:
        model: The model.
        handler: Of its run.
        session: Id of the session in which it learns.
    """

    def __init__(self, model: BaseAlgorithm, handler: CheckpointHandler, *, session: str) -> None:
        self._model = model
        self._handler = handler
        self._session = session

    def save(self) -> None:
        """Keep the model as it is now.

        Raises:
            InvalidRecord: SB3 cannot save it; says why.
        """
        model, content = self._model, BytesIO()
        try:
            model.save(content)
        except (AttributeError, TypeError, ValueError, PicklingError) as error:
            raise InvalidRecord(
                f"no checkpoint can be made, because model.save() fails: {error}. What is live (a "
                "connection, a lock) may not be among the arguments of a model"
            ) from error
        self._handler.put(
            content.getvalue(),
            timesteps=model.num_timesteps,
            policy_version=model._n_updates,
            session=self._session,
            algorithm=class_name(type(model)),
            normaliser=_normaliser(model),
        )

    def delete_all_but(self, newest: int) -> None:
        """Delete all checkpoints of the run but the newest. While Redis is away, none."""
        try:
            found = self._handler.checkpoints()
            for one in found[: max(0, len(found) - newest)]:
                one.delete()
        except StoreUnavailable:
            return


def _normaliser(model: BaseAlgorithm) -> bytes | None:
    """What SB3 saves of the model's `VecNormalize`."""
    normaliser = model.get_vec_normalize_env()
    if normaliser is None:
        return None
    with tempfile.TemporaryDirectory() as folder:  # it writes to a path only
        path = Path(folder, "vecnormalize.pkl")
        normaliser.save(str(path))
        return path.read_bytes()
