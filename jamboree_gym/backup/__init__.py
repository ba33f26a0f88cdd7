"""Redis -> MongoDB and back."""

from jamboree_gym.backup.backup import Backup, BackupReport, BackupStatus

__all__ = ["Backup", "BackupReport", "BackupStatus"]
