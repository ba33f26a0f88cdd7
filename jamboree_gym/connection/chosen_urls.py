"""Which Redis and which backup: as the arguments say, or else the variables of the environment."""

from __future__ import annotations

import os

from jamboree_gym.errors import InvalidArgument
from jamboree_gym.servers.address import (
    BACKUP_URL_VARIABLE,
    EMBEDDED_URL,
    MONGO_URL_VARIABLE,
    REDIS_URL_VARIABLE,
)
from jamboree_gym.store.backups.opening import check_backup_url
from jamboree_gym.wording import mask_password

__all__ = ["backs_up", "chosen_backup_url", "chosen_redis_url"]

UNSET = "then the embedded server is used"
BACKUP_VARIABLE = "JAMBOREE_BACKUP"


def chosen_redis_url(given: str | None) -> str | None:
    """The URL that was given, or else that of the environment; None = the embedded server."""
    return _url(given, REDIS_URL_VARIABLE)


def chosen_backup_url(backup: bool | str | None, mongo_url: str | None) -> str | None:
    """The URL of the backup that was given, or else that of the environment; None = embedded."""
    if isinstance(backup, str):
        if "://" not in backup:
            raise InvalidArgument(f"backup={backup!r}: choose True, False, or a URL")
        check_backup_url(backup)
        if mongo_url not in (None, backup):
            raise InvalidArgument("backup= and mongo_url= name two backups: give one of them")
        return backup
    if mongo_url is not None:
        return None if mongo_url == EMBEDDED_URL else mongo_url
    urls = {name: _url(None, name) for name in (BACKUP_URL_VARIABLE, MONGO_URL_VARIABLE)}
    found = {url for url in urls.values() if url is not None}
    if len(found) > 1:
        raise InvalidArgument(f"{' and '.join(urls)} name two backups: unset one of them")
    url = next(iter(found), None)
    if url is not None:
        check_backup_url(url)
    return url


def backs_up(backup: bool | str | None) -> bool:
    """Whether to copy to the backup by itself, as asked for, or else as the environment says."""
    if isinstance(backup, str):
        return True
    if backup is not None:
        if not isinstance(backup, bool):
            raise InvalidArgument(f"backup={backup!r}: choose True, False, or a URL")
        return backup
    text = os.environ.get(BACKUP_VARIABLE) or "1"
    if text not in ("0", "1"):
        where = f"; a URL goes into {BACKUP_URL_VARIABLE}" if "://" in text else ""
        raise InvalidArgument(f"{BACKUP_VARIABLE}={mask_password(text)!r}: choose 0 or 1{where}")
    return text == "1"


def _url(given: str | None, variable: str) -> str | None:
    if given == EMBEDDED_URL:
        return None
    url = os.environ.get(variable) if given is None else given
    if url == "" and given is None:  # a secret that was not set: no reason to open another store
        raise InvalidArgument(f"{variable} is empty: set it to a URL, or unset it ({UNSET})")
    return url
