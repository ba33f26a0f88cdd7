"""Environment wrappers.

Imports: `arrays`, `checked`, `connection`, `environment`, `errors`, `handlers`, `reading`,
    `recording`, `records`.
Imported by: `integrations`, `jamboree`, `multi_agent`, `replay`.
"""

from jamboree_gym.wrappers.recent import RecentTransactionsObservation
from jamboree_gym.wrappers.record import RecordEpisodes

__all__ = ["RecentTransactionsObservation", "RecordEpisodes"]
