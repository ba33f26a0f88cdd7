"""Redis -> MongoDB and back."""

from jamboree_gym.backup.backup import Backup, BackupReport, BackupStatus
from jamboree_gym.backup.policy import RetentionPolicy
from jamboree_gym.backup.retention import Trimmed

__all__ = ["Backup", "BackupReport", "BackupStatus", "RetentionPolicy", "Trimmed"]
