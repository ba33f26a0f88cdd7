"""What holds connections and threads of its process: copied or pickled, it says what to do."""

from __future__ import annotations

from typing import ClassVar, NoReturn, SupportsIndex

from jamboree_gym.errors import NotCopyable

__all__ = ["StaysHere"]


class StaysHere:
    """Cannot be copied or pickled.

    Attributes:
        instead: What to do instead.
    """

    instead: ClassVar[str] = "open a Jamboree where you need it"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """What `copy` and `pickle` call.

        Raises:
            NotCopyable: Always; says what to do.
        """
        raise NotCopyable(
            f"{type(self).__name__} is bound to its process and its connection, so it cannot be "
            f"copied or pickled: {self.instead}"
        )
