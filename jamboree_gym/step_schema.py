"""The layout of an episode's rows, as an Arrow schema that is stored once for all that share it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa

from jamboree_gym.codec import digest
from jamboree_gym.errors import DecodeError
from jamboree_gym.spaces import Leaf

__all__ = ["DAMAGED", "StepSchema"]

DAMAGED = (
    *(pa.ArrowException, OSError, EOFError),
    *(AttributeError, LookupError, TypeError, ValueError),
)
"""What reading damaged Arrow bytes raises."""


@dataclass(frozen=True)
class StepSchema:
    """Columns of an episode's rows.

    Attributes:
        observation: Layout of an observation.
        action: Layout of an action.
    """

    observation: Leaf
    action: Leaf

    @cached_property
    def arrow(self) -> pa.Schema:
        """The Arrow schema, layouts in its metadata."""
        layout = {"observation": self.observation.to_json(), "action": self.action.to_json()}
        return pa.schema(
            [
                ("observation", self.observation.arrow_type()),
                ("action", self.action.arrow_type()),
                ("reward", pa.float64()),
                ("terminated", pa.bool_()),
                ("truncated", pa.bool_()),
                ("timestamp", pa.float64()),
            ],
            metadata={"jamboree": json.dumps(layout, sort_keys=True)},
        )

    @cached_property
    def blob(self) -> bytes:
        """The schema as stored, once for all episodes that share it."""
        return bytes(self.arrow.serialize())

    @cached_property
    def digest(self) -> str:
        """Name of the blob."""
        return digest(self.blob)

    def shares_columns_with(self, other: StepSchema) -> bool:
        """Whether rows of both fit into one frame."""
        return self.observation.shares_column_with(
            other.observation
        ) and self.action.shares_column_with(other.action)

    @classmethod
    def from_blob(cls, blob: bytes, *, where: str) -> StepSchema:
        """Inverse of `blob`.

        Raises:
            DecodeError: It is not such a schema.
        """
        try:
            return _schema_from_blob(blob)
        except DAMAGED as error:
            raise DecodeError(f"{where}: not a schema of steps: {error}") from error


@lru_cache(maxsize=256)
def _schema_from_blob(blob: bytes) -> StepSchema:
    arrow = pa.ipc.read_schema(pa.py_buffer(blob))
    layout = json.loads(arrow.metadata[b"jamboree"])
    schema = StepSchema(*(Leaf.from_json(layout[name]) for name in ("observation", "action")))
    if not schema.arrow.equals(arrow):
        raise ValueError("its columns are not those of its layout")
    return schema
