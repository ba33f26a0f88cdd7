"""The backup: copies Redis to MongoDB or a folder, compares both, restores, and evicts from Redis.

Imports: `arrays`, `checked`, `connection`, `encoding`, `errors`, `keys`, `progress`, `reading`,
    `servers`, `store`, `wording`.
Imported by: `cli`, `diagnosis`, `integrations`, `jamboree`.
"""

from jamboree_gym.backup.backup import Backup, BackupReport, BackupStatus
from jamboree_gym.backup.eviction.policy import RetentionPolicy
from jamboree_gym.backup.eviction.preview import WouldEvict
from jamboree_gym.backup.eviction.trimmer import Trimmed

__all__ = ["Backup", "BackupReport", "BackupStatus", "RetentionPolicy", "Trimmed", "WouldEvict"]
