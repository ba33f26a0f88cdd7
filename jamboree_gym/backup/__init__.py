"""Redis -> MongoDB and back.

Imports: `arrays`, `connection`, `encoding`, `errors`, `keys`, `progress`, `reading`, `servers`,
    `store`.
Imported by: `cli`, `jamboree`.
"""

from jamboree_gym.backup.backup import Backup, BackupReport, BackupStatus
from jamboree_gym.backup.policy import RetentionPolicy
from jamboree_gym.backup.retention import Trimmed

__all__ = ["Backup", "BackupReport", "BackupStatus", "RetentionPolicy", "Trimmed"]
