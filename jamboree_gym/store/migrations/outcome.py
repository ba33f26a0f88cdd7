"""What a migration has done."""

from __future__ import annotations

from dataclasses import dataclass, field

from jamboree_gym.errors import DecodeError

__all__ = ["Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Filled while a migration runs.

    Attributes:
        changed: Keys of the logs that were changed, in Redis or in MongoDB.
        damaged: What is wrong with the batches and logs that were left as they are.
    """

    changed: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)

    def note_damage(self, error: DecodeError) -> None:
        """Something is left as it is; what is tried twice is noted once."""
        if str(error) not in self.damaged:
            self.damaged.append(str(error))
