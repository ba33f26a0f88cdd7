"""Wrappers of vector environments, under the names that their twins for single ones have."""

from jamboree_gym.wrappers.recent_vector import RecentTransactionsObservation
from jamboree_gym.wrappers.record_vector import RecordEpisodes

__all__ = ["RecentTransactionsObservation", "RecordEpisodes"]
