"""Environment wrappers."""

from jamboree_gym.wrappers.recent import RecentTransactionsObservation
from jamboree_gym.wrappers.record import RecordEpisodes

__all__ = ["RecentTransactionsObservation", "RecordEpisodes"]
