"""What is not yet where it belongs: in the backup, or in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from jamboree_gym.backup.backup import Backup, BackupStatus
from jamboree_gym.connection import Connection
from jamboree_gym.diagnosis.finding import Finding, note, ok, problem
from jamboree_gym.errors import JamboreeError
from jamboree_gym.journal.dead import dead_owners
from jamboree_gym.journal.restarts import boot_id
from jamboree_gym.store.backups.opening import open_backup
from jamboree_gym.store.backups.presence import is_there
from jamboree_gym.wording import counted, one_line

__all__ = ["check_backup", "check_journals", "check_backup_store"]

LATE_S = 60.0


def check_backup_store(url: str, namespace: str) -> Finding:
    """Whether the backup answers."""
    try:
        with closing(open_backup(url, namespace)) as store:
            empty = "" if is_there(store) else f"; nothing of {namespace!r} was ever copied there"
            return ok("backup store", f"answers at {store.where}{empty}")
    except JamboreeError as error:
        return problem("backup store", one_line(str(error)), "start it, or mend --backup-url")


def check_backup(connection: Connection) -> Finding:
    """How far the backup is behind."""
    check = "backup"
    try:
        status = Backup(connection).status()
    except JamboreeError as error:
        return problem(check, one_line(str(error)), "jamboree-gym backup verify")
    behind = _behind(status)
    if status.last_error:
        found = f"{behind}; it cannot copy: {one_line(status.last_error)}"
        return problem(check, found, "mend that, then: jamboree-gym backup flush")
    if status.follower is not None and not (status.lag_s or 0.0) > LATE_S:
        return ok(check, f"{behind}; copied by {one_line(status.follower)}")
    if connection.redis_url is not None and connection.backup_url is None:
        return note(check, "there is no backup", "give --backup-url")
    if status.pending_logs or status.pending_deletes:
        is_late = (status.lag_s or 0.0) > LATE_S
        found = f"{behind}, and {'it is late' if status.follower else 'nobody copies now'}"
        return (problem if is_late else note)(check, found, "jamboree-gym backup flush")
    if status.mongo is None:
        return note(check, "nothing has been copied yet", "jamboree-gym backup flush")
    return ok(check, behind)


def _behind(status: BackupStatus) -> str:
    if not status.pending_logs and not status.pending_deletes:
        return "the backup has everything"
    lag = "" if status.lag_s is None else f", for up to {status.lag_s:,.0f} s"
    records = counted(status.pending_records, "record")
    return f"the backup lacks {records} of {counted(status.pending_logs, 'log')}{lag}"


def check_journals(connection: Connection) -> Iterator[Finding]:
    """Whether dead processes have left what Redis does not have."""
    check, directory = "journal", connection.journal_directory
    if directory is None or not directory.is_dir():
        yield ok(check, "no process has left anything")
        return
    own = connection.journal.owner
    left = [one for one in dead_owners(directory) if one.is_of(own) and not one.is_delivered]
    older = [one for one in left if one.boot != boot_id()]
    if len(left) > len(older):
        yield note(
            check,
            f"Redis lacks {counted(len(left) - len(older), 'journal')} of processes that died",
            "any command that opens the store delivers them: jamboree-gym runs",
        )
    if older:
        url = "" if connection.opened.redis_url is None else " --redis-url URL"
        yield problem(
            check,
            f"{counted(len(older), 'journal')} from before this machine was restarted",
            "python -m jamboree_gym.recording.recovery --restarted "
            f"--home {directory.parent}{url}, or delete it",
        )
    if not left:
        yield ok(check, "no process has left anything")
