"""Opens a backup by its URL: MongoDB, or a folder."""

from __future__ import annotations

from jamboree_gym.errors import InvalidUrl
from jamboree_gym.store.backups.protocol import BackupStore
from jamboree_gym.store.folder.store import FolderStore
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.urls import FOLDER_SCHEME, MONGO_SCHEMES, folder_of, is_folder, scheme_of

__all__ = ["check_backup_url", "open_backup"]


def check_backup_url(url: str) -> None:
    """Check that a kind of backup has such URLs, and that a folder is named; else `InvalidUrl`."""
    scheme = scheme_of(url)
    if scheme not in (*MONGO_SCHEMES, FOLDER_SCHEME):
        shown = f"begins with {scheme!r}" if scheme else "has no scheme"
        raise InvalidUrl(
            f"the URL of the backup {shown}; use mongodb://host:port, mongodb+srv:// or "
            "file:///path/of/a/folder"
        )
    if is_folder(url):
        folder_of(url)


def open_backup(url: str, namespace: str) -> BackupStore:
    """Open the backup of a namespace.

    Raises:
        InvalidUrl: The scheme is unknown, or the rest of the URL cannot be used.
        StoreUnavailable: Nothing answers there, or it refuses us.
    """
    check_backup_url(url)
    if is_folder(url):
        return FolderStore.from_url(url, namespace)
    return MongoStore.from_url(url, namespace)
