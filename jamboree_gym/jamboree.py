"""`Jamboree`: what users hold in their hands."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from jamboree_gym.backup import Backup
from jamboree_gym.connection import Connection
from jamboree_gym.episode import Episode
from jamboree_gym.episode_handler import EpisodeHandler
from jamboree_gym.errors import UnsupportedSpace
from jamboree_gym.query import EpisodeFilter, EpisodeQuery
from jamboree_gym.step_outbox import StepOutbox
from jamboree_gym.wrappers.record import RecordEpisodes
from jamboree_gym.writer import CLOSE_TIMEOUT_S

if TYPE_CHECKING:
    import redis
    from pymongo.database import Database

__all__ = ["Jamboree"]


class Jamboree(Connection):
    """Saves, reads and deletes records in Redis (fast) and MongoDB (backup).

    Without URLs it uses embedded servers that live under `home`, shared by all processes of that
    home; they start by themselves and are gone a minute after their last client.

    Example:
        >>> with Jamboree() as jam:
        ...     env = jam.record(gymnasium.make("CartPole-v1"), run="first")

    Args:
        redis_url: `redis://`, `rediss://` or `unix://`; None = `JAMBOREE_REDIS_URL`, and where that
            is not set either, the embedded Valkey.
        mongo_url: `mongodb://` or `mongodb+srv://`; None = `JAMBOREE_MONGO_URL`, and where that is
            not set either, the embedded server. Opened on first use.
        home: Directory of the embedded servers; None = `JAMBOREE_HOME`, else the user data
            directory.
        namespace: Keeps two projects on the same servers apart.
        write: `buffered` (default): a killed process loses at most the newest `flush_interval_s`.
            `sync`: a save returns once Redis has acknowledged it. `fsync`: once it is on Redis'
            disk.
        flush_interval_s: Longest time for which a save waits in memory, seconds.
        max_pending_bytes: So much may wait in memory for a server that does not answer.
        when_full: Once it does, `block` (default): the next save, step or reset waits until the
            server is back. `raise`: it raises `StoreUnavailable` before it does anything, so that
            it can be repeated.

    Raises:
        StoreUnavailable: Redis does not answer, or refuses the login; names host, not password.
        UnsupportedServer: It cannot do what is asked: not Redis, too old, or no append-only file.
        InvalidUrl: A URL has another scheme.
        MissingExtra: The embedded servers are not installed.
        EmbeddedServerError: They cannot be started; says why.
    """

    @cached_property
    def backup(self) -> Backup:
        """Copying to MongoDB, comparing, restoring."""
        return Backup(self)

    @property
    def redis(self) -> redis.Redis:
        """The redis-py client, for what is not thought of here."""
        return self.store.client

    @property
    def mongo(self) -> Database[Any]:
        """The pymongo database, for what is not thought of here."""
        return self.mongo_store.database

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Bring everything to Redis and let go of the servers. A second call does nothing.

        Episodes that are still being recorded are `abandoned`.

        Args:
            timeout_s: How long to go on trying, seconds.

        Raises:
            UnsavedRecords: Something could not be saved and is lost with this process; says how
                many records.
        """
        if not self._closed:
            for outbox in list(self._outboxes.values()):
                if isinstance(outbox, StepOutbox) and outbox.error is None:
                    outbox.end("abandoned")
        super().close(timeout_s)

    def record(
        self,
        env: gym.Env[Any, Any],
        *,
        run: str | None = None,
        tags: Mapping[str, Any] | None = None,
        handler_class: type[EpisodeHandler] = EpisodeHandler,
        record_infos: bool = True,
    ) -> RecordEpisodes[Any, Any]:
        """Wrap an environment so that every step is recorded; arguments as `RecordEpisodes`."""
        if not isinstance(env, gym.Env):
            raise UnsupportedSpace(
                f"{type(env).__name__} cannot be recorded yet: wrap the single environments that "
                "it is made of"
            )
        return RecordEpisodes(
            env,
            self,
            run=run,
            tags=tags,
            handler_class=handler_class,
            record_infos=record_infos,
        )

    def episode(self, id: str) -> Episode:
        """One episode by its id. Reading it raises `EpisodeNotFound` where there is none."""
        return Episode(self, id)

    def episodes(
        self,
        *,
        run: str | None = None,
        env_id: str | None = None,
        status: str | None = None,
        tags: Mapping[str, Any] | None = None,
        min_return: float | None = None,
        since: float | None = None,
        limit: int | None = None,
    ) -> EpisodeQuery:
        """Episodes by what their summaries say, the one that began first at the front.

        Args:
            run: Only of this run.
            env_id: Only of this environment.
            status: Only with this status: `running`, `terminated`, `truncated`, `abandoned`,
                `interrupted`.
            tags: Only with these tags, at these values.
            min_return: Only with at least this return.
            since: Only those begun at or after this time, epoch seconds.
            limit: At most so many.
        """
        wanted = EpisodeFilter(run, env_id, status, tags or {}, min_return, since)
        return EpisodeQuery(self, wanted, limit=limit)
