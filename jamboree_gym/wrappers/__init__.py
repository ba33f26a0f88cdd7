"""Environment wrappers."""

from jamboree_gym.wrappers.record import RecordEpisodes

__all__ = ["RecordEpisodes"]
