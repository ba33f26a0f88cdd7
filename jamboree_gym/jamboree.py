"""`Jamboree`: the object that users open."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypedDict, Unpack, overload

import gymnasium as gym
from gymnasium.vector import VectorEnv

from jamboree_gym.backup import Backup
from jamboree_gym.backup.automatic import automatic_backup
from jamboree_gym.checked import Count, EpochSeconds, Seconds, checked
from jamboree_gym.connection import Connection, HasConnection
from jamboree_gym.delivery.backpressure import WhenFull
from jamboree_gym.delivery.writer import CLOSE_TIMEOUT_S, WriteMode
from jamboree_gym.errors import InvalidArgument, MissingExtra, UnsupportedSpace
from jamboree_gym.handlers.rendered_frames import RecordFrames
from jamboree_gym.multi_agent.joint_episode import JointEpisode, joint_episode_of, joint_episodes
from jamboree_gym.multi_agent.recording.description import api_of
from jamboree_gym.reading.diff import EpisodeDiff, diff
from jamboree_gym.reading.episode import Episode, recent_of
from jamboree_gym.reading.finding.filters import EpisodeFilter
from jamboree_gym.reading.finding.names import RunNames, id_of
from jamboree_gym.reading.follow_all import AllTail
from jamboree_gym.reading.query import EpisodeQuery
from jamboree_gym.recording.episode_handler import EpisodeHandler
from jamboree_gym.recording.recovery import deliver_dead_journals
from jamboree_gym.records import StepData, Transitions
from jamboree_gym.runs.run import Run
from jamboree_gym.runs.run_query import RunQuery
from jamboree_gym.servers.address import Address
from jamboree_gym.store.mongo.store import MongoStore
from jamboree_gym.store.urls import backup_name
from jamboree_gym.wrappers.record import RecordEpisodes
from jamboree_gym.wrappers.record_vector import RecordEpisodes as VectorRecordEpisodes
from jamboree_gym.wrappers.record_vector import steps_many

if TYPE_CHECKING:
    import redis
    from pymongo.database import Database
    from stable_baselines3.common.vec_env import VecEnv

    from jamboree_gym.integrations.sb3 import VecRecordEpisodes
    from jamboree_gym.page.serving import PageServer

__all__ = ["Jamboree"]


class RecordKeywords(TypedDict, total=False):
    """Keywords of `Jamboree.record`; `RecordEpisodes` says what they mean."""

    run: str | None
    tags: Mapping[str, Any] | None
    handler_class: type[EpisodeHandler]
    record_infos: bool | Collection[str]
    strict_infos: bool
    record_frames: RecordFrames
    snapshot_every: int | None


class Jamboree(HasConnection):
    """Saves, reads and deletes records in Redis (fast) and in a backup: MongoDB, or a folder.

    Without URLs it uses embedded servers, whose data are in the directory `home`. All processes of
    a home share them. They start by themselves, and stop a minute after their last client.

    Example:
        >>> with Jamboree() as jam:
        ...     env = jam.record(gymnasium.make("CartPole-v1"), run="first")

    Args:
        redis_url: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service`
            for the primary of Sentinels, or `redis+cluster://host:port,host:port`; None =
            `JAMBOREE_REDIS_URL`, and where that is not set either, the embedded Valkey.
        mongo_url: The URL of the backup by its old name; `backup` takes the same.
        home: Directory of the embedded servers; None = `JAMBOREE_HOME`, else the user data
            directory.
        namespace: Keeps two projects on the same servers apart.
        write: When `step` and `save` return. `buffered` (default): when the data are in a file of
            this machine, which outlives a killed process. `sync`: when Redis has acknowledged them.
            `fsync`: when they are on Redis' disk.
        flush_interval_s: The longest time that a save waits for its delivery to Redis while
            another process follows it, seconds. While none does, it waits up to one second.
        max_pending_bytes: How much may wait in memory while Redis does not answer, bytes.
        when_full: What happens when so much waits. `block` (default): the next save, step or reset
            waits until Redis is back. `raise`: it raises `StoreUnavailable` before it does
            anything, so that it can be repeated.
        backup: The URL of the backup: `mongodb://`, `mongodb+srv://` or `file:///path/of/a/folder`.
            Or a bool: whether data are copied in the background; None = yes, unless
            `JAMBOREE_BACKUP` is 0. Without a URL, the backup is `JAMBOREE_BACKUP_URL` or
            `JAMBOREE_MONGO_URL`; if neither is set, it is the embedded backup, and with a
            `redis_url` nothing is copied to this in the background. The embedded servers have a
            process that copies; to a URL a thread copies, unless another process does. The backup
            is opened on first use.
        backup_interval_s: The longest time that data wait for this copy, seconds. They are copied
            sooner if 16 MB wait, or if Redis' memory fills up. `backup.flush()` copies now.
        clock: Gives the time of what is recorded, epoch seconds; for tests and simulated time.

    Raises:
        StoreUnavailable: Redis does not answer, or refuses the login; names host, not password.
        UnsupportedServer: It cannot do what is asked: not Redis, too old, or no append-only file.
        InvalidUrl: A URL has another scheme.
        MissingExtra: The embedded servers are not installed.
        EmbeddedServerError: They cannot be started; says why.
    """

    @checked
    def __init__(
        self,
        redis_url: str | None = None,
        mongo_url: str | None = None,
        *,
        home: str | Path | None = None,
        namespace: str = "jamboree",
        write: WriteMode = "buffered",
        flush_interval_s: float = 0.05,
        max_pending_bytes: int = 256 * 2**20,
        when_full: WhenFull = "block",
        backup: bool | str | None = None,
        backup_interval_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.__connection = Connection(
            redis_url,
            mongo_url,
            new_backup=automatic_backup,
            home=home,
            namespace=namespace,
            write=write,
            flush_interval_s=flush_interval_s,
            max_pending_bytes=max_pending_bytes,
            when_full=when_full,
            backup=backup,
            backup_interval_s=backup_interval_s,
            clock=clock,
        )
        try:
            deliver_dead_journals(self.__connection)
        except BaseException:  # a Ctrl-C, for example: it may wait for another process
            self.__connection.close()
            raise

    @property
    def _connection(self) -> Connection:
        return self.__connection

    @classmethod
    def _on(cls, connection: Connection) -> Self:
        jam = cls.__new__(cls)
        jam.__connection = connection
        return jam

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """A copy opens the same store anew; it is closed by whoever has it."""
        of_base = {"_Jamboree__connection", "backup"}
        own = {name: value for name, value in vars(self).items() if name not in of_base}
        return _opened_anew, (type(self), self._connection.address()), own or None

    def _open(self) -> Connection:
        """The connection, for a call that needs it open.

        Raises:
            JamboreeClosed: It is closed.
        """
        self._connection.check_open()
        return self._connection

    @cached_property
    def backup(self) -> Backup:
        """Copying to the backup, comparing, restoring."""
        return Backup(self._connection)

    @checked
    def ui(
        self,
        *,
        host: str = "127.0.0.1",
        port: Count | None = None,
        allow_actions: bool = False,
        needs_token: bool | None = None,
    ) -> PageServer:
        """Serve the page of this store: runs and episodes in a browser, live.

        Example:
            >>> page = jam.ui()  # a notebook shows a link
            >>> page.close()

        Args:
            host: Address to bind. Others than this machine need the token in the URL.
            port: Its port; None = 7432, or a free one if that is taken.
            allow_actions: Whether flags can be set on the page.
            needs_token: Whether the URL has a random token; None = if other machines reach it.

        Raises:
            MissingExtra: Starlette and uvicorn are not installed.
            InvalidArgument: The address cannot be bound.
        """
        self._open()
        served = page_server(
            self, host=host, port=port, allow_actions=allow_actions, needs_token=needs_token
        )
        return served.start()

    @property
    def redis(self) -> redis.Redis:
        """The underlying redis-py client; with a cluster a `RedisCluster`."""
        return self._open().redis_store.client

    @property
    def mongo(self) -> Database[Any]:
        """The underlying pymongo database.

        Raises:
            InvalidArgument: The backup is a folder.
        """
        store = self._connection.backup_store
        if not isinstance(store, MongoStore):
            where = backup_name(store.where)
            raise InvalidArgument(f"the backup is {where}: there is no MongoDB behind it")
        return store.database

    @checked
    def flush(self, timeout_s: Seconds = 10.0) -> None:
        """Return once Redis has everything that was saved before the call.

        Args:
            timeout_s: How long to try, seconds.

        Raises:
            UnsavedRecords: Not everything could be brought there; says how much is missing. It
                stays in memory and is tried again.
        """
        self._connection.flush(timeout_s)

    @checked
    def close(self, timeout_s: Seconds = CLOSE_TIMEOUT_S) -> None:
        """Bring everything to Redis and leave the servers. A second call does nothing.

        Episodes that are still being recorded are `abandoned`.

        Args:
            timeout_s: How long to try, seconds.

        Raises:
            UnsavedRecords: Something could not be saved; says how many records. In `buffered` mode
                the next process that opens the store delivers it.
        """
        self._connection.close(timeout_s)

    def __repr__(self) -> str:
        """Where it writes; no password."""
        return repr(self._connection)

    @overload
    def record(
        self, env: gym.Env[Any, Any], **options: Unpack[RecordKeywords]
    ) -> RecordEpisodes[Any, Any]: ...

    @overload
    def record(
        self, env: VectorEnv[Any, Any, Any], **options: Unpack[RecordKeywords]
    ) -> VectorRecordEpisodes: ...

    @overload
    def record(self, env: VecEnv, **options: Unpack[RecordKeywords]) -> VecRecordEpisodes: ...

    @checked
    def record(self, env: Any, **options: Unpack[RecordKeywords]) -> Any:
        """Wrap an environment so that every step is recorded.

        Args:
            env: An environment, a vector environment, an AEC or Parallel environment of PettingZoo,
                or a VecEnv of Stable-Baselines3.
            **options: What the wrapper of such an environment takes: see `RecordEpisodes`.
                Frames and snapshots are kept of a single environment only.

        Raises:
            UnsupportedSpace: It is none of these, or has a space that cannot be recorded.
            InvalidRecord: A tag cannot be kept.
            InvalidArgument: The run is no name, or another argument is wrong.
        """
        recorder = _recorder_of(env)
        if recorder is not RecordEpisodes:
            kind = "a vector environment" if api_of(env) is None else "one of several agents"
            for name, kept in (
                ("record_frames", options.pop("record_frames", None)),
                ("snapshot_every", options.pop("snapshot_every", None)),
            ):
                if kept:
                    raise InvalidArgument(
                        f"{name}= is for single environments: {kind} gives that of all at once, "
                        "not of the episodes that are recorded"
                    )
        return recorder(env, self, **options)

    @checked
    def episode(self, id: Episode | str) -> Episode:
        """One episode by its id, or by the beginning of its id.

        Reading it raises `EpisodeNotFound` where there is none.

        Example:
            >>> jam.episode("01a21f").data().rewards.sum()

        Args:
            id: The id, for which nothing is read; or its first digits, at least 6, for which the
                listings are read. An episode stands for its id.

        Raises:
            EpisodeNotFound: No id begins like that, or several do; names some.
        """
        return Episode(self._open(), id_of(self._open(), id))

    @checked
    def episodes(
        self,
        *,
        run: RunNames | None = None,
        env_id: str | None = None,
        status: str | None = None,
        agent: Any = None,
        tags: Mapping[str, Any] | None = None,
        min_return: float | None = None,
        since: EpochSeconds | None = None,
        order_by: str | None = None,
        limit: Count | None = None,
        wait: bool = False,
        forks: bool = False,
    ) -> EpisodeQuery:
        """Episodes by what their summaries say, the one that began first at the front.

        What is returned reads nothing yet. `where` asks for more, `order_by` and slices are there
        too: `jam.episodes(run="a").where(max_steps=99).order_by("-episode_return")[:10]`.

        Args:
            run: Only of this run, or of these.
            env_id: Only of this environment.
            status: Only with this status: `running`, `terminated`, `truncated`, `abandoned`,
                `interrupted`.
            agent: Only of this agent, in environments of several.
            tags: Only with these tags, at these values, or values of which a function is true.
            min_return: Only with at least this return.
            since: Only those begun at or after this time, epoch seconds.
            order_by: As in `EpisodeQuery.order_by`.
            limit: At most this many, those at the front.
            wait: Whether a run may be missing because it begins later: the query then finds
                nothing. Otherwise a missing run is an error.
            forks: Whether forks of an episode of the same run are found, too: they are experiments,
                not data of the run.

        Raises:
            InvalidArgument: There is no such status or field, or the limit is negative.
            RunNotFound: When the query is used: there is no such run; names those that there are.
        """
        query = EpisodeQuery(self._open(), wait=wait, forks=forks).where(
            run=run,
            env_id=env_id,
            status=status,
            agent=agent,
            tags=tags,
            min_return=min_return,
            since=since,
        )
        query = query if order_by is None else query.order_by(order_by)
        return query if limit is None else query[:limit]

    @checked
    def joint_episode(self, id: Episode | JointEpisode | str) -> JointEpisode:
        """The episodes of several agents together: by its id, or by that of an agent's episode.

        Example:
            >>> print(jam.joint_episode(env.joint_id).verify())

        Args:
            id: The id, or its first digits.

        Raises:
            EpisodeNotFound: There is none.
        """
        return joint_episode_of(self._open(), id_of(self._open(), id))

    @checked
    def joint_episodes(
        self,
        *,
        run: RunNames | None = None,
        env_id: str | None = None,
        agent: Any = None,
        tags: Mapping[str, Any] | None = None,
        min_return: float | None = None,
        since: EpochSeconds | None = None,
        forks: bool = False,
    ) -> list[JointEpisode]:
        """Joint episodes in which the episode of an agent matches; each has all its agents.

        Example:
            >>> won = jam.joint_episodes(run="first", agent="player_1", min_return=1)

        Args:
            run: As in `episodes`, like the others.
            env_id: Name of the environment.
            agent: Only where the episode of this agent matches.
            tags: Only with these tags, at these values.
            min_return: Only with at least this return.
            since: Only those begun at or after this time, epoch seconds.
            forks: Whether forks in the same run are found, too.
        """
        return joint_episodes(
            self.episodes(
                run=run,
                env_id=env_id,
                agent=agent,
                tags=tags,
                min_return=min_return,
                since=since,
                forks=forks,
            )
        )

    @checked
    def runs(self) -> RunQuery:
        """All runs, the one written last at the end.

        What is returned reads nothing yet. `print` shows a table.

        Example:
            >>> print(jam.runs())
            >>> jam.runs().table().to_pandas()
        """
        return RunQuery(self._open())

    @checked
    def run(self, name: str, *, wait: bool = False) -> Run:
        r"""What was recorded under a name: its episodes, history, metrics and checkpoints.

        What is returned reads nothing yet.

        Example:
            >>> print(*jam.run("ppo").history, sep="\n")

        Args:
            name: The name.
            wait: Whether the run may be missing because it begins later. Otherwise a read of it
                raises `RunNotFound`, which names the runs that there are.
        """
        return Run(self._open(), name, wait=wait)

    @checked
    def tail(
        self,
        *,
        run: RunNames | None = None,
        env_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        since: EpochSeconds | None = None,
        timeout_s: Seconds | None = None,
        wait: bool = False,
        forks: bool = False,
    ) -> Iterator[tuple[Episode, StepData]]:
        """Follow all episodes that are running now or begin later, each from its first step.

        Each step comes once. Those of an episode come in order; those of different episodes as they
        arrive in Redis. What other processes record is among them, also of those that start later.
        While Redis is away the iterator waits, and continues when it is back.

        Example:
            >>> for episode, step in jam.tail(run="ppo", timeout_s=60):
            ...     print(episode.id, step.index, step.reward)

        Args:
            run: Only of this run, or of these.
            env_id: Only of this environment.
            tags: Only with these tags, at these values.
            since: Only those begun at or after this time, epoch seconds; and of these also what has
                ended before the call. 0 = all that is stored, and then what comes.
            timeout_s: End after this many seconds without a new step; None waits for ever.
            wait: Whether to wait for a run that is not there yet, too.
            forks: Whether to follow forks of an episode of the same run, too.

        Returns:
            An iterator of pairs: the episode, and its next step.

        Raises:
            UnsavedRecords: What this process has recorded so far cannot be brought to Redis.
            StoreUnavailable: Redis is away at the call, or later for `timeout_s`.
            RunNotFound: There is no such run; names those that there are.
            DecodeError: Stored bytes are damaged; names key and index.
        """
        wanted = EpisodeFilter(run=run, env_id=env_id, tags=tags or {}, since=since)
        tail = AllTail(self._open(), wanted, wait=wait, forks=forks)
        tail.begin()
        return tail.follow(timeout_s)

    @checked
    def atail(
        self,
        *,
        run: RunNames | None = None,
        env_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        since: EpochSeconds | None = None,
        timeout_s: Seconds | None = None,
        wait: bool = False,
        forks: bool = False,
    ) -> AsyncIterator[tuple[Episode, StepData]]:
        """As `tail`, for an event loop, which it does not block: it waits in a separate thread.

        It asks Redis nothing before the first item is awaited: that is "the call" then.

        Example:
            >>> async for episode, step in jam.atail(run="ppo"):
            ...     print(episode.id, step.index, step.reward)
        """
        wanted = EpisodeFilter(run=run, env_id=env_id, tags=tags or {}, since=since)
        return AllTail(self._open(), wanted, wait=wait, forks=forks).afollow(timeout_s)

    @checked
    def recent(self, episodes: Iterable[Episode | str], n: Count) -> list[Transitions]:
        """The newest n steps of several episodes, in one round trip.

        Example:
            >>> others = jam.episodes(run="actors", status="running").ids()
            >>> for steps in jam.recent(others, 16):
            ...     print(steps.observations.shape, steps.rewards.sum())

        Args:
            episodes: The episodes, or their ids.
            n: Number of steps of each; fewer if it has fewer.

        Returns:
            For each episode its steps as arrays, oldest first.

        Raises:
            EpisodeNotFound: One of them is not there.
            DecodeError: Stored bytes are damaged; names key and index.
        """
        connection = self._open()
        return recent_of([Episode(connection, id_of(connection, one)) for one in episodes], n)

    @checked
    def diff(self, a: Episode | str, b: Episode | str) -> EpisodeDiff:
        """Where two episodes begin to differ, and their summaries side by side.

        A fork is compared with all steps before it, too: a child and its parent begin to differ at
        the fork, or later.

        Example:
            >>> if report := jam.diff(parent, child):
            ...     print(report.divergence)  # action at step 40: 1 and 0

        Args:
            a: An episode, or its id.
            b: Another one.

        Returns:
            A report that is true when they differ; as text, a table of a few lines.

        Raises:
            EpisodeNotFound: One of them, or an episode that it was forked from, is not there.
            DecodeError: Stored bytes are damaged; names key and index.
        """
        return diff(*(self.episode(id_of(self._open(), one)) for one in (a, b)))


def _opened_anew(kind: type[Jamboree], address: Address) -> Jamboree:
    """A Jamboree that was pickled or copied."""
    connection = Connection.at(address)
    deliver_dead_journals(connection)
    return kind._on(connection)


def page_server(jam: Jamboree, **options: Any) -> PageServer:
    """The page of a store, not served yet.

    Raises:
        MissingExtra: Starlette and uvicorn are not installed.
    """
    try:
        from jamboree_gym.page.serving import PageServer
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise MissingExtra("the page needs: pip install 'jamboree-gym[ui]'") from error
    return PageServer(jam, **options)


def _recorder_of(env: Any) -> Any:
    """The wrapper that records such an environment."""
    if isinstance(env, gym.Env):
        return VectorRecordEpisodes if steps_many(env) else RecordEpisodes
    if isinstance(env, VectorEnv):
        return VectorRecordEpisodes
    if (api := api_of(env)) is not None:
        from jamboree_gym import multi_agent

        return multi_agent.RecordAEC if api == "aec" else multi_agent.RecordParallel
    vec_env = sys.modules.get("stable_baselines3.common.vec_env")  # nobody has a VecEnv without it
    if vec_env is not None and isinstance(env, vec_env.VecEnv):
        from jamboree_gym.integrations import sb3

        return sb3.VecRecordEpisodes
    raise UnsupportedSpace(
        f"env: {type(env).__name__} cannot be recorded: it is no gymnasium.Env, no "
        "gymnasium.vector.VectorEnv, no environment of PettingZoo and no VecEnv of "
        "Stable-Baselines3"
    )
