"""The actors of a simulation: what each of their steps does, and what has to hold after it."""

from __future__ import annotations

import gc
import itertools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cluster_model import ClusterModel, slot_of
from gymnasium.vector import SyncVectorEnv
from ledger import Episode, Found, Ledger, deleted_in_mongo, in_mongo, in_redis
from pausable import Pausable
from processes import NoteHandler
from recorded_envs import CountingEnv
from redis_model import RedisModel
from schedule import Schedule, Step
from world import (
    ASK_AGAIN_S,
    ELSEWHERE,
    NAMESPACE,
    NOT_DONE,
    SPACE,
    Killed,
    Process,
    Running,
    World,
)

from jamboree_gym import Jamboree
from jamboree_gym.backup.follow import Follower
from jamboree_gym.backup.leader_lock import HOLD_S
from jamboree_gym.errors import (
    BackupMismatch,
    DecodeError,
    EpisodeInUse,
    EpisodeNotFound,
    JamboreeError,
    NotReset,
    RunNotFound,
    StoreUnavailable,
    UnsavedRecords,
)
from jamboree_gym.handlers.db_handler import _RecordTail
from jamboree_gym.handlers.follow import EpisodeTail
from jamboree_gym.keys import MONGO_BUNDLES, MONGO_LOGS
from jamboree_gym.reading.bulk_read import whole_episodes
from jamboree_gym.recording.recovery import deliver_dead_journals
from jamboree_gym.store.backups.errors import BackupUnavailable

__all__ = ["Outcome", "simulate"]

NEVER_TOLD = BackupMismatch, DecodeError  # nothing is ever damaged here, or stored by others

LOGS = ("shared", "second")
COLLECT_EVERY = 50  # schedules
LENGTH = 4  # steps of an episode
LEASE_S = 10.0
SUB_ENVS = {"writer-1": 8, "writer-2": 2, "writer-3": 2, "writer-4": 8}  # from 8 on: by column
AGES_S = (0.0, 0.5, 3.0, 30.0)
ACTION = np.zeros(2, np.float32)
SINGLE_RUN = "a"  # of single environments
TELLING = ("writer-2", "writer-4")  # their single environments return infos
WAITS_S = (0.01, 0.3, 1.2, 4.0, 12.0, 70.0)
JUMPS_S = (-3600.0, -5.0, -0.01, 0.01, 5.0, 3600.0)


@dataclass(frozen=True)
class Outcome:
    """How a schedule ended: broken promises, and what happened, line by line."""

    violations: tuple[str, ...]
    story: tuple[str, ...]


def simulate(
    schedule: Schedule, seed: int, *, on_cluster: bool = False, directory: Path | None = None
) -> Outcome:
    """Have a schedule happen, in a new world, on one Redis or on a cluster.

    Memory is collected between two schedules: what that calls would be at a point that no seed
    decides.
    """
    made = Path(tempfile.mkdtemp(prefix="jg-sim-", dir=directory or _memory()))
    try:
        with _uncollected():
            return _Simulation(seed, made, on_cluster=on_cluster).run(schedule)
    finally:
        shutil.rmtree(made, ignore_errors=True)


_schedules = itertools.count(1)


@contextmanager
def _uncollected() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        if next(_schedules) % COLLECT_EVERY == 0:
            gc.collect()


def _memory() -> Path | None:
    """Journals need no disk here."""
    return next((one for one in (Path("/dev/shm"),) if one.is_dir()), None)


def _lengths_of(envs: Any) -> list[int]:
    """How long the episodes of each environment are."""
    return [one.unwrapped.length for one in envs.unwrapped.envs]


def _id_of(env: Any) -> str | None:
    """The episode that is recorded; None before the first."""
    try:
        return str(env.episode_id)
    except NotReset:
        return None


def _ids_of(envs: Any) -> list[str]:
    """The episodes of a vector environment that have begun."""
    ids = [_id_of(one) for one in envs._recorder._recorders]
    return [id for id in ids if id is not None]


class TellingEnv(CountingEnv):
    """Returns infos of various lengths."""

    def info(self) -> dict[str, Any]:
        """The number of the row, and more."""
        return {"row": self.count, "more": "x" * (7 * self.count % 40)}


class _Simulation:
    def __init__(self, seed: int, directory: Path, *, on_cluster: bool = False) -> None:
        self.world = World(seed, directory, self.act, self._arrives, on_cluster=on_cluster)
        self.ledger = Ledger()
        self._unheard: dict[str, set[Any]] = {}  # what dead writers had no answer for
        self._only_in_backup: set[Any] = set()  # since Redis has lost them
        self._came_late: set[Any] = set()  # of appends, since the last deletion of a log began

    def run(self, schedule: Schedule) -> Outcome:
        """Take all steps; then mend everything, and look."""
        with self.world.entered():
            try:
                for step in schedule:
                    self.world.go_on()
                    self.act(step)
                    if self.ledger.violations:
                        break
                else:
                    self.end()
            except Exception as error:  # noqa: BLE001 - also a fault of the model ends a schedule
                self.violated(f"{type(error).__name__}: {error}", error)
        return Outcome(tuple(self.ledger.violations), tuple(self.world.story))

    def violated(self, what: str, error: BaseException | None = None) -> None:
        """A promise is broken."""
        self.ledger.violated(what)
        self.world.tell(f"VIOLATION: {what}")
        if error is not None:
            self.error = error

    # -- steps ----------------------------------------------------------------------------------

    def act(self, step: Step) -> None:
        """Take a step, unless its process is in the middle of another one."""
        if any(one.process.actor == step.actor for one in self.world.stack):
            return
        if step.actor == "world":
            getattr(self, f"_{step.act}")(step.number)
            return
        process = self.world.process_of(step.actor)
        if process.stopped is not None:
            return
        if any(fault.kind == "stopped" for fault in step.faults):
            pausable = Pausable(lambda: self._act(process, step, pausable))
            pausable.go_on()
        else:
            self._act(process, step)

    def _act(self, process: Process, step: Step, pausable: Pausable | None = None) -> None:
        was_new = process.jam is None
        with self.world.running(process, step, pausable) as running:
            try:
                if was_new:
                    self.world.tell(f"{process.name} opens a Jamboree (write={process.mode!r})")
                    self.world.open(process)
                getattr(self, f"_{step.act}")(running, step.number)
            except Killed:
                running.had_trouble = True
                self.world.forget_last_words(process)
                if step.act in ("reset", "step", "vector_step"):
                    self.ledger.has_unknown_episodes = True
            except JamboreeError as error:
                self._refused(running, error)
                if process.jam is None:
                    self.world.end(process)
        if not process.is_alive:
            self._process_ends(process)

    def _process_ends(self, process: Process) -> None:
        if process.jam is not None:
            self._unheard[process.connection.writer_name] = self._held_by(process)
            self._excuse_refused(process)
        stored = self.stored_in_redis().names | self.stored_in_mongo().names
        self.ledger.process_ends(process.name, stored)

    def _refused(self, running: Running, error: JamboreeError) -> None:
        text = f"{type(error).__name__}: {str(error)[:160]}"
        self.world.tell(f"{running.process.name} is told: {text}")
        if NOT_DONE in str(error):
            return
        if isinstance(error, NEVER_TOLD):
            self.violated(f"{running.process.name} is told in {running.step.act}: {text}", error)
        elif running.had_trouble or self.has_trouble():
            told = [id for id in self.ledger.episodes if id in str(error)]
            self.ledger.lose((), told, "it was refused while a server did not answer")
        else:
            self.violated(f"{running.process.name} is refused {running.step.act}: {text}", error)

    def has_trouble(self) -> bool:
        """Whether a server or the disk is a reason for an error."""
        world = self.world
        is_away = world.mongo.is_away or world.seconds < world.mongo_uncertain_until
        is_away |= any(one.is_away or one.is_full for one in world.redis.parts)
        return is_away or any(move.is_halted for move in world.redis.moves.values())

    # -- writers --------------------------------------------------------------------------------

    def _handler(self, process: Process, log: str) -> NoteHandler:
        found = process.kept.get(log)
        if found is None:
            found = process.kept[log] = NoteHandler(process.jam, log)
        return found

    def _save(self, running: Running, number: int, count: int = 1) -> None:
        process, log = running.process, LOGS[number % 4 == 0]
        handler = self._handler(process, log)
        notes = [self.ledger.begin(log, process.name) for _ in range(count)]
        first, last = notes[0].name[2], notes[-1].name[2]
        numbers = f"note {first}" if count == 1 else f"notes {first} to {last}"
        self.world.tell(f"{process.name} saves {numbers} to {log!r}")
        try:
            records = [{"by": note.name[1], "n": note.name[2]} for note in notes]
            if count == 1:
                handler.save(records[0])
            else:
                handler.save_many(records)
        except StoreUnavailable as error:  # they stay queued as long as the process lives
            for note in notes:
                note.is_promised = NOT_DONE not in str(error)
                if not note.is_promised:
                    del self.ledger.notes[note.name]
            raise
        finally:
            is_durable = process.mode == "buffered" and not self.world.disk_is_full
            is_durable &= process.is_alive and process.connection.journal.is_durable()
            for note in notes:
                note.is_in_journal = is_durable
        for note in notes:
            note.is_promised = True
            note.is_in_journal |= process.mode != "buffered"

    def _save_many(self, running: Running, number: int) -> None:
        self._save(running, number, 2 + number % 9)

    def _step(self, running: Running, number: int) -> None:
        process = running.process
        env = process.kept.get("env")
        if env is None:
            assert process.jam is not None
            kind = TellingEnv if process.actor in TELLING else CountingEnv
            env = process.kept["env"] = process.jam.record(kind(LENGTH), run=SINGLE_RUN)
        episode = process.kept.get("episode")
        if episode is None:
            self._reset(running, number)
            return
        episode.has_begun_step = True
        self.world.tell(f"{process.name} takes step {episode.rows} of episode {episode.id[-4:]}")
        try:
            _, _, has_ended, _, _ = env.step(ACTION)
        except (EpisodeNotFound, EpisodeInUse):
            process.kept["episode"] = None
            if episode.may_be_lost or episode.is_deleted:
                self.world.tell(f"{process.name} is told that the episode is lost")
                return
            raise
        except JamboreeError as error:
            if NOT_DONE in str(error):
                episode.has_begun_step = False
                raise
            process.kept["episode"] = None
            self.ledger.lose((), [episode.id], "its step was refused")
            raise
        episode.rows, episode.has_begun_step = episode.rows + 1, False
        episode.is_in_journal &= self._is_safe(process)
        if has_ended:
            self._episode_ends(process, episode, "terminated")

    def _pop(self, running: Running, number: int) -> None:
        """Take some notes off a log, as from a queue."""
        process, log, count = running.process, LOGS[number % 4 == 0], 1 + number % 3
        self.world.tell(f"{process.name} takes {count} notes off {log!r}")
        taken = None
        self.ledger.were_popped.add(log)
        try:
            taken = self._handler(process, log).pop(count)
        finally:
            if taken is None:  # those of a call without an answer go to nobody
                notes = [name for name in self.ledger.notes if name[0] == log]
                self.ledger.lose(notes, (), "it was being taken off its log")
        self.world.tell(f"it gets {[(one['by'], one['n']) for one in taken]}")
        lost = [name for name in self._only_in_backup if name[0] == log]
        self.ledger.lose(lost, (), "others were taken off in their place")  # a limit
        self.ledger.pop(log, taken, may_be_again=self.was_emptied)

    def _is_safe(self, process: Process) -> bool:
        """Whether what a call has just returned from outlives the process."""
        return process.mode != "buffered" or process.connection.journal.is_durable()

    def _episode_ends(self, process: Process, episode: Episode, status: str) -> None:
        process.kept["episode"] = None
        if episode.status == "running":
            episode.status = status

    def _reset(self, running: Running, number: int) -> None:
        process = running.process
        env = process.kept.get("env")
        if env is None:
            self._step(running, number)
            return
        before = self.ledger.episodes.get(_id_of(env) or "")
        is_running = before is not None and before.status == "running"
        if before is not None and is_running:
            before.status = ""  # either, until the reset has returned
        old_id, process.kept["episode"] = _id_of(env), None
        has_returned = False
        try:
            env.reset()
            has_returned = True
        except (EpisodeNotFound, EpisodeInUse):
            if before is None or not (before.may_be_lost or before.is_deleted):
                raise
            self.world.tell(f"{process.name} is told that the episode before is lost")
        finally:
            if _id_of(env) != old_id:
                episode = Episode(env.episode_id, process.name, length=LENGTH, run=SINGLE_RUN)
                episode.is_in_journal = process.is_alive and self._is_safe(process)
                self.ledger.episodes[episode.id] = episode
                if not has_returned:
                    self.ledger.lose((), [episode.id], "its reset did not return")
        if not has_returned:
            return
        if before is not None and is_running:
            before.ends("abandoned")
        process.kept["episode"] = episode
        self.world.tell(f"{process.name} has begun episode {episode.id[-4:]}")

    def _vector_step(self, running: Running, _: int) -> None:
        """A step of some environments at once, or the reset of all of them before the first."""
        process = running.process
        envs = process.kept.get("vector")
        if envs is None:
            assert process.jam is not None
            lengths = [1 + i % LENGTH for i in range(SUB_ENVS[process.actor])]
            made = SyncVectorEnv([partial(CountingEnv, length) for length in lengths])
            envs = process.kept["vector"] = process.jam.record(made, run="v")
        before = self._vector_episodes(envs)
        for episode in before:
            episode.has_begun_step, episode.has_lost_status = True, False
        self.world.tell(f"{process.name} takes a step of {envs.num_envs} environments")
        observations = None
        try:
            if before:
                observations, *_ = envs.step(np.zeros((envs.num_envs, 2), np.float32))
            else:
                observations, _ = envs.reset()
        except JamboreeError as error:
            process.kept["vector"] = None
            is_told = any(one.may_be_lost or one.is_deleted for one in before)
            if not (is_told and isinstance(error, (EpisodeNotFound, EpisodeInUse))):
                raise
            self.world.tell(f"{process.name} is told that an episode is lost")
        finally:
            for id in _ids_of(envs):
                if id not in self.ledger.episodes:
                    self.ledger.episodes[id] = Episode(id, process.name, status="")
            if observations is None:
                ids = [one.id for one in [*before, *self._vector_episodes(envs)]]
                self.ledger.lose((), ids, "its step did not return")
        if observations is None:
            return
        is_safe = self._is_safe(process)
        for episode, count, length in zip(
            self._vector_episodes(envs), observations[:, 0].tolist(), _lengths_of(envs), strict=True
        ):
            is_new = episode not in before
            episode.rows, episode.has_begun_step = int(count) + 1, False
            episode.length = length
            episode.is_in_journal = is_safe and (is_new or episode.is_in_journal)
            episode.ends("terminated" if count == length else "running")
        for episode in before:
            episode.has_begun_step = False

    def _vector_episodes(self, envs: Any) -> list[Episode]:
        known = self.ledger.episodes
        return [known[id] for id in _ids_of(envs) if id in known]

    def _deliver(self, running: Running, _: int) -> None:
        """What the writer's thread does in a round; and what others would do beside it."""
        process = running.process
        self.world.tell(f"{process.name} delivers")
        while process.threads:
            process.threads.pop(0)()
        process.connection.writer.deliver_round()

    def _flush(self, running: Running, _: int) -> None:
        process = running.process
        self.world.tell(f"{process.name} flushes")
        assert process.jam is not None
        try:
            process.jam.flush()
        except UnsavedRecords as error:
            if not self._is_excused(process, error):
                raise
            self.world.tell(f"{process.name} is told what is lost: {str(error)[:120]}")

    def _is_excused(self, process: Process, error: JamboreeError) -> bool:
        """Whether an error tells of an episode that was lost or deleted."""
        cause = error.__cause__
        lost = self._excuse_refused(process, str(cause))
        return isinstance(cause, (EpisodeNotFound, EpisodeInUse)) and any(
            one.id in str(cause) for one in lost
        )

    def _excuse_refused(self, process: Process, error: str = "") -> list[Episode]:
        """The episodes of a process that may be lost; those that it has said are lost, are."""
        mine = [one for one in self.ledger.episodes.values() if one.by == process.name]
        lost = [one for one in mine if one.may_be_lost or one.is_deleted]
        refused = [
            outbox.key
            for outbox in process.connection.opened.outboxes.all()
            if outbox.error is not None
        ]
        told = " ".join([error, *refused])  # the error names one, and how many records
        self.ledger.lose((), [one.id for one in lost if one.id in told], "its writer was told")
        return lost

    def _renew(self, running: Running, _: int) -> None:
        lease = running.process.connection._lease
        if lease._is_recording():
            self.world.tell(f"{running.process.name} renews its lease")
            lease._renew()
            running.process.leased_until = self.world.seconds + LEASE_S

    def _close(self, running: Running, _: int) -> None:
        process = running.process
        assert process.jam is not None
        self.world.tell(f"{process.name} closes")
        mine = [one for one in self.ledger.episodes.values() if one.by == process.name]
        running_ones = [one for one in mine if one.status == "running"]
        for one in running_ones:
            one.status = ""
        try:
            process.jam.close()
        except UnsavedRecords as error:
            is_kept = "It stays in" in " ".join(getattr(error, "__notes__", ()))
            for note in self.ledger.notes.values():
                if note.name[1] == process.name:
                    note.is_in_journal &= is_kept
            self._process_ends(process)
            if not self._is_excused(process, error):
                raise
        else:
            for one in running_ones:
                one.ends("abandoned")
        finally:
            process.is_alive = False
            self.world.processes.pop(process.actor, None)

    # -- readers --------------------------------------------------------------------------------

    @contextmanager
    def _reading(self, running: Running, log: str) -> Iterator[set[Any]]:
        """While this lasts, a log is read; which notes have to be there."""
        here = set(self.stored_in_redis().notes.get(log, ()))
        only_there = set(self.stored_in_mongo().notes.get(log, ())) - here
        own = self.ledger.required_notes(log) - only_there
        names = set(here)
        if running.process.mode == "buffered":
            names |= {name for name in own if name[1] == running.process.name}
        was_calm = not (self.world.mongo_was_away or self.has_failed_over or running.step.faults)
        if was_calm and self.world.seconds > self.world.mongo_uncertain_until:
            names |= only_there
        required = names & set(self.ledger.notes)
        yield required
        # What was deleted or lost meanwhile need not be there.
        required &= {
            name
            for name, one in self.ledger.notes.items()
            if not one.may_be_lost and not one.is_deleted
        }
        if self.world.mongo_was_away:  # Redis may have lost it meanwhile, and begun the log again
            required &= {*self.stored_in_redis().notes.get(log, ())}

    def _read_notes(self, running: Running, number: int) -> None:
        process, log = running.process, LOGS[number % 4 == 0]
        self.world.tell(f"{process.name} reads {log!r}")
        deleted = self.ledger.deleted_notes()
        with self._reading(running, log) as required:
            if number % 3:
                read = self._handler(process, log).many(10**6)
            else:
                read = self._handler(process, log).between(0.0, math.inf)
        before, when = len(self.ledger.violations), f"{process.name} reads"
        self.ledger.check_notes(log, read, required, when, deleted=deleted)
        for what in self.ledger.violations[before:]:
            self.world.tell(f"VIOLATION: {what}")

    _read_own = _read_notes

    def _read_episodes(self, running: Running, number: int) -> None:
        jam = running.process.jam
        assert jam is not None
        self.world.tell(f"{running.process.name} reads the episodes")
        before, deleted = len(self.ledger.violations), self.ledger.deleted_episodes()
        with suppress(RunNotFound):
            for summary in jam.episodes().summaries():
                self._check_running(running, summary.id, summary.status)
                with suppress(EpisodeNotFound):
                    data = jam.episode(summary.id).data()
                    rows = data.observations[:, 0].tolist()
                    self._check_infos(summary.id, data.infos)
                    self._note_begun_episodes()
                    when = f"{running.process.name} reads"
                    self.ledger.check_rows(summary.id, rows, when, deleted=deleted)
        for what in self.ledger.violations[before:]:
            self.world.tell(f"VIOLATION: {what}")

    def _note_begun_episodes(self) -> None:
        """Whose reset has not returned, and may be there all the same."""
        processes = [*self.world.processes.values(), *(one.process for one in self.world.stack)]
        for process in processes:
            env, envs = process.kept.get("env"), process.kept.get("vector")
            ids = [None if env is None else _id_of(env), *([] if envs is None else _ids_of(envs))]
            for id in ids:
                if id is not None and id not in self.ledger.episodes:
                    self.ledger.episodes[id] = Episode(id, process.name, status="")

    def _check_running(self, running: Running, id: str, status: str) -> None:
        """The status that somebody reads while it may still change."""
        episode = self.ledger.episodes.get(id)
        if episode is None or episode.may_be_lost or running.had_trouble:
            return
        writer = next((p for p in self.world.processes.values() if p.name == episode.by), None)
        if writer is not None and writer.leased_until > self.world.seconds:
            is_wrong = status == "interrupted"
        else:
            is_wrong = status == "running" and writer is None and self._is_long_dead(episode.by)
        if is_wrong:
            self.ledger.violated(
                f"{running.process.name} reads: episode {id[-4:]} of {episode.by} is {status}"
            )

    def _is_long_dead(self, by: str) -> bool:
        longer_s = LEASE_S + self.set_back_s + 0.1  # given before the server's clock was set back
        return self.world.seconds > self.world.dead_at.get(by, math.inf) + longer_s

    def _follow_notes(self, running: Running, number: int) -> None:
        process, log = running.process, LOGS[0]
        tail = process.kept.get("tail")
        if tail is None:
            tail = _RecordTail(self._handler(process, log)._read_from)
            process.kept["tail"], process.kept["followed"] = tail, []
        self.world.tell(f"{process.name} follows {log!r}")
        new = [(log, one["by"], one["n"]) for one in tail.look(0.0)]
        followed = process.kept["followed"]
        again = set(new) & set(followed)
        if again and not self.was_emptied:
            self.violated(f"{process.name} is told again of {sorted(again)}")
        followed += new

    def _follow_episodes(self, running: Running, number: int) -> None:
        process = running.process
        known = [one for one in self.ledger.episodes.values() if not one.may_be_lost]
        if not known:
            return
        followed = known[number % len(known)]
        self.world.tell(f"{process.name} follows episode {followed.id[-4:]}")
        tails = process.kept.setdefault("tails", {})
        if followed.id not in tails:
            assert process.jam is not None
            cursor = process.jam.episode(followed.id)._cursor()
            tails[followed.id] = EpisodeTail(process.connection, followed.id, cursor), []
        tail, seen = tails[followed.id]
        with suppress(EpisodeNotFound):
            seen += [step.index for step in tail.look(0.0)]
        if seen != list(range(len(seen))):
            self.violated(f"{process.name} was told of the steps {seen}")

    # -- the backup -----------------------------------------------------------------------------

    def _copy(self, running: Running, _: int) -> None:
        jam = running.process.jam
        assert jam is not None
        self.world.tell(f"{running.process.name} copies to MongoDB")
        jam.backup.flush()
        if not running.had_trouble:
            self.ledger.all_is_copied()
            self._only_in_backup.clear()

    def _follow_up(self, running: Running, _: int) -> None:
        """A round of the automatic backup."""
        process = running.process
        follower = self._follower(process)
        self.world.tell(f"{process.name} takes a round of the automatic backup")
        follower.copy_once()
        self._check_follower(running, follower)

    def _follower(self, process: Process) -> Follower:
        follower: Follower | None = process.kept.get("follower")
        if follower is None:
            open_mongo = process.connection.opened.opened_backup
            follower = process.kept["follower"] = Follower(
                process.connection.redis_store,
                lambda: open_mongo(),
                to="simulated",
                is_new=True,
                kind="thread" if process.actor == "keeper-2" else "process",
            )
        return follower

    def _check_follower(self, running: Running, follower: Follower) -> None:
        if follower.trouble and not running.had_trouble and not self.has_trouble():
            self.violated(f"the backup has trouble: {follower.trouble}")
        for _, reason in follower._failed.values():
            self.violated(f"the backup leaves out a log: {reason}")

    def _take_turn(self, running: Running, _: int) -> None:
        """A round of one of the automatic backups, of which one copies at a time."""
        process = running.process
        follower = self._follower(process)
        self.world.tell(f"{process.name} copies if no other backup does")

        def copy() -> float:
            return follower._copy() if follower._leader_lock.claim() else math.inf

        follower._attempt(copy)
        self._check_follower(running, follower)

    def _watch(self, running: Running, number: int) -> None:
        """A while of the automatic backup: it copies in its turn, and waits for work."""
        process = running.process
        follower = self._follower(process)
        self.world.tell(f"{process.name} copies in its turn, and waits for work")
        for _ in range(1 + number % 3):
            pause_s = follower._attempt(follower._copy_in_turn)
            self._check_follower(running, follower)
            if pause_s < math.inf:
                self.world.sleep(pause_s)
            else:
                follower._attempt(follower._wait_for_work)
                self._check_follower(running, follower)

    def _retire(self, running: Running, _: int) -> None:
        """The automatic backup ends."""
        process = running.process
        follower = self._follower(process)
        self.world.tell(f"{process.name} copies for the last time")
        follower._attempt(follower._copy_at_last)
        self._check_follower(running, follower)
        follower._doorbell.close()
        del process.kept["follower"]

    def _trim(self, running: Running, number: int) -> None:
        jam = running.process.jam
        assert jam is not None
        self.world.tell(f"{running.process.name} evicts what it can from Redis")
        keep = [{"run": SINGLE_RUN}] if number % 5 == 0 else []
        if number % 3:
            jam.backup.retain(max_redis_bytes=1, keep=keep)
        else:
            jam.backup.retain(max_age_s=AGES_S[number % len(AGES_S)], keep=keep)
        before = self.stored_in_redis().episodes
        jam.backup.trim()
        gone = before.keys() - self.stored_in_redis().episodes
        kept = [id for id in gone if keep and self._run_of(id) == SINGLE_RUN]
        if kept and not (running.had_trouble or running.step.faults):
            self.violated(f"episodes went although a rule keeps them: {kept}")
        if number % 2:
            jam.backup.retain()

    def _run_of(self, id: str) -> str:
        known = self.ledger.episodes.get(id)
        return "" if known is None else known.run

    def _preview(self, running: Running, _: int) -> None:
        jam = running.process.jam
        assert jam is not None
        self.world.tell(f"{running.process.name} asks what would be evicted")
        is_calm = not (running.step.faults or self.world.is_on_its_way(""))
        before = self.world.redis.changes
        jam.backup.would_evict(max_redis_bytes=1)
        if self.world.redis.changes != before and is_calm:
            self.violated("a preview has changed something")

    def _ask_status(self, running: Running, _: int) -> None:
        """Whether something is said to be copied that is not."""
        jam = running.process.jam
        assert jam is not None
        may_arrive = self.world.is_on_its_way("append")
        status = jam.backup.status()
        said = f"{status.pending_logs} logs and {status.pending_deletes} deletions"
        self.world.tell(f"{running.process.name} is told that {said} are to be copied")
        if status.pending_logs or running.had_trouble or running.step.faults or may_arrive:
            return
        redis, mongo = self.stored_in_redis(), self.stored_in_mongo()
        notes, episodes = self.ledger.notes, self.ledger.episodes
        missing = [one for one in redis.names - mongo.names if not notes[one].may_be_lost]
        missing += [
            id
            for id, rows in redis.episodes.items()
            if id in episodes and not episodes[id].may_be_lost and not episodes[id].is_back
            if mongo.episodes.get(id, 0) < rows
        ]
        if missing:
            self.violated(f"the status says that all is copied, and MongoDB lacks {missing}")

    def _copy_elsewhere(self, running: Running, _: int) -> None:
        jam = running.process.jam
        assert jam is not None
        self.world.tell(f"{running.process.name} copies the backup to another MongoDB")
        jam.backup.copy_to(ELSEWHERE)

    def _restore(self, running: Running, _: int) -> None:
        jam = running.process.jam
        assert jam is not None
        self.world.tell(f"{running.process.name} restores all that MongoDB holds")
        with self._unless_never_copied():
            jam.backup.restore()

    def _verify(self, running: Running, _: int) -> None:
        jam = running.process.jam
        assert jam is not None
        self.world.tell(f"{running.process.name} compares both servers")
        with self._unless_never_copied():
            jam.backup.verify()

    @contextmanager
    def _unless_never_copied(self) -> Iterator[None]:
        """Only where MongoDB holds no logs may it be said that there is no backup."""
        held = self.world.mongo.databases.get(NAMESPACE, {})
        is_empty = not any(held.get(name) for name in (MONGO_LOGS, MONGO_BUNDLES))
        try:
            yield
        except BackupUnavailable as error:
            if not (is_empty and str(error).startswith("there is no backup of")):
                raise

    def _delete_notes(self, running: Running, number: int) -> None:
        process, log = running.process, LOGS[number % 2]
        handler = self._handler(process, log)
        self.world.tell(f"{process.name} deletes {log!r}")
        before = {*self.stored_in_redis().notes.get(log, ())}
        before |= {*self.stored_in_mongo().notes.get(log, ())}
        self.ledger.lose(before, (), "its deletion was begun")
        losses = self.losses
        was_undisturbed = False
        self._came_late = set()
        self.ledger.being_deleted.append(log)
        try:
            handler.delete()
            was_undisturbed = not running.had_trouble
        finally:
            self.ledger.being_deleted.remove(log)
            if not was_undisturbed:
                others = {name for name in self.ledger.notes if name[0] == log} - before
                self.ledger.lose(others, (), "it was saved during a deletion")
        # A writer that has heard of no answer cannot know that its note was stored and deleted: if
        # others have begun the log again, it comes back.
        held = self._held()
        unheard = held | self._left_in_journals()
        if self.world.is_on_its_way("append"):
            # A first try that arrives after the deletion begins the log; the writer, who was told
            # before that it was refused, sends these notes again with other times.
            self.ledger.may_be_twice |= {name for name in held if name[0] == log}
        unheard |= {name for name in before if name[1] in self.ledger.unsynced}
        unheard |= self._came_late
        self.ledger.lose(before & unheard, (), "it was deleted before its writer had an answer")
        # Nor can it know that its note was stored and taken off, once the log is gone.
        self.ledger.may_forget_pops(name for name in unheard if name[0] == log)
        for name in before - unheard:
            self.ledger.notes[name].is_deleted = True
        if self.losses != losses:  # a limit: what the log had under another birth may be back
            self.ledger.come_back(self.stored_in_redis(), ())
            self.ledger.come_back(self.stored_in_mongo(), ())

    def _delete_episode(self, running: Running, number: int) -> None:
        known = list(self.ledger.episodes.values())
        if not known:
            return
        episode = known[number % len(known)]
        jam = running.process.jam
        assert jam is not None
        self.world.tell(f"{running.process.name} deletes episode {episode.id[-4:]}")
        before = self.stored_in_redis().episodes | self.stored_in_mongo().episodes
        self.ledger.lose((), [episode.id], "it was being deleted")
        losses = self.losses
        with suppress(EpisodeNotFound):
            jam.episode(episode.id).delete()
            # What was not delivered yet may come after the deletion, and begin the log; or it has
            # just come, and is deleted.
            episode.is_deleted = episode.id in before
            self.ledger.lose((), [episode.id], "it was being deleted")
            carried_out = deleted_in_mongo(self.world.mongo, NAMESPACE, NAMESPACE)
            if self.losses != losses and self.world.mongo.is_away:  # Redis alone knew of it
                self.ledger.forget_deletions(carried_out)

    # -- the world ------------------------------------------------------------------------------

    was_emptied = has_failed_over = False
    set_back_s = 0.0  # how far the server's clock was, in all
    losses = 0  # how often Redis, or a primary, has lost something

    def stored_in_redis(self) -> Found:
        """What Redis holds."""
        return in_redis(self.world.redis, NAMESPACE)

    def stored_in_mongo(self) -> Found:
        """What MongoDB holds."""
        return in_mongo(self.world.mongo, NAMESPACE, NAMESPACE)

    def _wait(self, number: int) -> None:
        seconds = WAITS_S[number % len(WAITS_S)]
        self.world.tell(f"{seconds:g} s pass")
        self.world.write_to_disk()
        self.world.sleep(seconds)

    def _kill(self, number: int) -> None:
        living = sorted(self.world.processes.values(), key=lambda one: one.name)
        if not living:
            return
        process = living[number % len(living)]
        self.world.tell(f"{process.name} is killed")
        self.world.kill(process)
        if not any(one.process is process for one in self.world.stack):
            self._process_ends(process)

    def _hit(self, number: int) -> tuple[str, Sequence[RedisModel]]:
        """Whom something befalls, in words: Redis, or all primaries, or one of them.

        That is often the one with the log or the episode of which the windows tell.
        """
        parts = self.world.redis.parts
        if len(parts) == 1 or number % 4 == 0:
            return "Redis", parts
        at = number // 4 % len(parts)
        if number % 4 < 3:
            at = parts.index(self.world.part_of(self._slot(is_of_notes=number % 4 == 2)))
        return f"primary {at + 1}", [parts[at]]

    def _slot(self, *, is_of_notes: bool) -> int:
        """The slot of the first log, or of the newest episode if there is one."""
        key = SPACE.records("note", {"name": LOGS[0]})
        if self.ledger.episodes and not is_of_notes:
            key = SPACE.episode(max(self.ledger.episodes))
        return self.world.slot_of_log(key)

    def _move_slot(self, number: int) -> None:
        """To another primary: at once, key by key while others go on, or a part of the keys."""
        cluster = self.world.redis
        if not isinstance(cluster, ClusterModel):
            return
        kind = number // 3 % 4
        if kind < 2:
            slot = self._slot(is_of_notes=kind == 0)
        else:
            slots = self.world.slots() if kind == 2 else self.world.slots_of_no_bucket()
            slot = slots[number // 12 % len(slots)] if slots else 0
        source = cluster.owner_of(slot)
        assert source is not None
        to = cluster.parts[(source.at + 1 + number // 6 % 2) % len(cluster.parts)]
        words = f"slot {slot} of primary {source.at + 1}"
        if slot in cluster.moves:
            return
        if number % 3 == 0:
            self.world.tell(f"{words} moves to {to.at + 1} at once")
            cluster.move(slot, to)
            cluster.end_move(slot)
        elif number % 3 == 1:
            self.world.tell(f"{words} begins to move to {to.at + 1}, key by key")
            cluster.move(slot, to, order=number)
        else:
            keys = len(cluster.keys_in(source, slot)) * (number // 24 % 3) // 2
            self.world.tell(f"{words} begins to move to {to.at + 1}; it stops after {keys} keys")
            cluster.move(slot, to, is_halted=True, order=number)
            for _ in range(keys):
                cluster.move_key(slot)

    def _finish_moves(self, _: int) -> None:
        self.world.tell("all slots that move are where they should be")
        self.world.redis.end_moves()

    def _empty_redis(self, number: int) -> None:
        who, parts = self._hit(number)
        self.world.tell(f"{who} is emptied")

        def empty() -> None:
            self._end_moves(parts)
            for part in parts:
                part.execute([(b"FLUSHALL",)])
                part.forget_older_states()  # a limit: no failover takes that back (README.md)

        self._changed(empty, "Redis was emptied", parts)

    def _fail_over(self, number: int) -> None:
        loss_s = number % 10 / 10
        who, parts = self._hit(number)
        self.world.tell(f"{who} fails; another takes its place, which lacks the newest writes")
        self.has_failed_over = True

        self._changed(lambda: self._lose(parts, loss_s), "Redis had not synced it", parts)

    def _lose(self, parts: Sequence[RedisModel], loss_s: float) -> None:
        self._end_moves(parts)
        for part in parts:
            part.fail_over(loss_s)

    def _cut_power(self, number: int) -> None:
        """Of the machine of all processes; Redis is there, too, or on another one."""
        if self.world.stack:
            return
        loses = number % 2
        where = "with Redis, which lacks the newest writes" if loses else "but not of Redis"
        self.world.tell(f"power cut of the machine of all processes, {where}")
        for process in list(self.world.processes.values()):
            self.world.kill(process)
            self._process_ends(process)
        self.world.cut_power()
        self.has_failed_over |= bool(loses)
        failing = self.world.redis.parts if loses else ()
        self._changed(lambda: self._lose(failing, number % 10 / 10), "power cut")
        redis, mongo = self.stored_in_redis(), self.stored_in_mongo()
        self.ledger.lose(set(self.ledger.notes) - redis.names - mongo.names, (), "power cut")
        self.ledger.meet_power_cut(self.world.torn)
        for id, episode in self.ledger.episodes.items():
            rows = max(redis.episodes.get(id, 0), mongo.episodes.get(id, 0))
            statuses = {redis.statuses.get(id), mongo.statuses.get(id)}
            if rows < episode.rows or episode.status not in statuses:
                self.ledger.lose((), [id], "power cut")

    def _changed(
        self,
        change: Callable[[], object],
        why: str,
        parts: Sequence[RedisModel] | None = None,
        *,
        copies_stay: bool = True,
    ) -> None:
        """Redis, or some primaries, lose something: excuse what nobody else holds."""
        self.losses += 1
        self._note_begun_episodes()
        before = self.stored_in_redis()
        for process in self.world.processes.values():
            process.leased_until = -math.inf
        blobs = self._blobs_of_cluster()
        change()
        self._put_back(blobs)
        after, copied = self.stored_in_redis(), self.stored_in_mongo()
        gone = before.names - after.names - self._held_for_sure(parts)
        if copies_stay:
            gone -= copied.names
        shorter = [
            id
            for id, rows in before.episodes.items()
            if max(after.episodes.get(id, 0), copied.episodes.get(id, 0)) < rows
        ]
        self.ledger.lose(gone, shorter, why)
        self._only_in_backup |= (before.names - after.names) & copied.names
        for id, status in before.statuses.items():
            newer = after if id in after.episodes else copied
            if id in self.ledger.episodes and newer.statuses.get(id) != status:
                self.ledger.episodes[id].lose_status()
        hit = self.world.logs_of(parts, {SPACE.records("note", {"name": log}): log for log in LOGS})
        forgotten = self._held() | self._left_in_journals()
        if self.world.is_amid_steps:  # a copy that has read some of this may still end
            self.ledger.may_be_twice |= {name for name in forgotten if name[0] in hit}  # a limit
            forgotten |= self.ledger.notes.keys()
        self.ledger.may_forget_pops(name for name in forgotten if name[0] in hit)
        carried_out = deleted_in_mongo(self.world.mongo, NAMESPACE, NAMESPACE)
        self.ledger.come_back(after, carried_out)
        self.ledger.come_back(copied, ())
        ids = {SPACE.episode(id): id for id in self.ledger.episodes}
        self.ledger.forget_deletions(
            carried_out | (set(ids.values()) - self.world.logs_of(parts, ids))
        )
        self.was_emptied = True

    def _end_moves(self, parts: Sequence[RedisModel]) -> None:
        """A limit: a bucket of which one server has a part may lose that part (README.md)."""
        for slot, move in list(self.world.redis.moves.items()):
            if {move.source, move.to} & set(parts):
                self.world.tell(f"slot {slot} is where it should be before that")
                self.world.redis.end_move(slot)

    def _blobs_of_cluster(self) -> dict[bytes, tuple[RedisModel, bytes]]:
        """Schemas and provenances that no backup has, and where they are."""
        if not self.world.is_cluster:
            return {}
        before, copied = SPACE.blob(""), self.world.mongo.documents(NAMESPACE, "blobs")
        return {
            key: (part, value)
            for part in self.world.redis.parts
            for key, value in part.keyspace.values.items()
            if key.startswith(before.encode()) and key.decode().removeprefix(before) not in copied
        }

    def _put_back(self, blobs: Mapping[bytes, tuple[RedisModel, bytes]]) -> None:
        """A limit: what another primary has cannot be read without them (README.md)."""
        for key, (before, value) in blobs.items():
            part = self.world.redis.owner_of(slot_of(key)) or before
            part.keyspace.values.setdefault(key, value)

    def _arrives(self, what: str, execute: Callable[[], object]) -> None:
        if "'delete'" in what:  # what was saved after the deletion had failed is deleted, too
            self._changed(execute, "a deletion came late", copies_stay=False)
        else:
            before = self.stored_in_redis().names
            execute()
            after = self.stored_in_redis().names
            # A limit: of a log that was deleted meanwhile, the first try is taken for a new save.
            self._came_late |= after - before
            self.ledger.come_back_late(self._came_late)
            self.ledger.lose(before - after, (), "it was taken off late, and went to nobody")

    def _held(self) -> set[Any]:
        """Notes that a living process still holds, as it has not heard of all answers."""
        return self._held_among([one for one in self.world.processes.values() if one.is_alive])

    def _held_for_sure(self, parts: Sequence[RedisModel] | None) -> set[Any]:
        """Notes that are sent again if Redis, or these primaries, lose them.

        On a cluster, whoever waits for WAITAOF alone has had the answer to what it has sent, and
        who waits for another primary may have had that of these. Notes are sent again all the same
        if that fails.
        """
        losing = set(self.world.redis.parts if parts is None else parts)

        def may_be_answered(one: Process) -> bool:
            waits_elsewhere = one.waits_at is not None and losing != {one.waits_at}
            return bool(one.waits_for) and (one.waits_for == "WAITAOF" or waits_elsewhere)

        living = [one for one in self.world.processes.values() if one.is_alive]
        return self._held_among([one for one in living if not may_be_answered(one)])

    def _held_among(self, processes: Sequence[Process]) -> set[Any]:
        return {name for one in processes if one.jam is not None for name in self._held_by(one)}

    def _held_by(self, process: Process) -> set[Any]:
        held = set()
        for log in LOGS:
            handler = process.kept.get(log)
            outbox = None if handler is None else handler._outbox
            if outbox is not None:
                numbers = [n for of, by, n in self.ledger.notes if (of, by) == (log, process.name)]
                unsaved = sorted(numbers)[len(numbers) - outbox.unsaved :]
                held |= {(log, process.name, n) for n in unsaved}
        return held

    def _left_in_journals(self) -> set[Any]:
        """Notes of dead processes that had heard of no answer, and that nobody has delivered."""
        journals = {one.name.partition(".")[0] for one in self.world.files()}
        return {name for by in journals for name in self._unheard.get(by, ())}

    def _start_redis_again(self, number: int) -> None:
        who, parts = self._hit(number)
        self.world.tell(f"{who} is started again, and has everything")
        for part in parts:
            part.start_again()

    def _redis_away(self, number: int) -> None:
        who, parts = self._hit(number)
        self.world.tell(f"{who} does not answer any more")
        for part in parts:
            part.is_away = True

    def _redis_back(self, _: int) -> None:
        self.world.tell("Redis answers")
        for part in self.world.redis.parts:
            part.is_away = False

    def _mongo_away(self, _: int) -> None:
        self.world.tell("MongoDB does not answer any more")
        self.world.mongo.is_away = self.world.mongo_was_away = True

    def _mongo_back(self, _: int) -> None:
        self.world.tell("MongoDB answers")
        self.world.mongo.is_away = False
        if self.world.mongo_was_away:
            self.world.mongo_uncertain_until = self.world.seconds + ASK_AGAIN_S

    def _fill_redis(self, number: int) -> None:
        who, parts = self._hit(number)
        self.world.tell(f"the memory of {who} is full")
        for part in parts:
            part.is_full = True

    def _free_redis(self, _: int) -> None:
        self.world.tell("Redis has memory")
        for part in self.world.redis.parts:
            part.is_full = False

    def _fill_disk(self, _: int) -> None:
        self.world.tell("the disk of the journals is full")
        self.world.disk_is_full = True

    def _free_disk(self, _: int) -> None:
        self.world.tell("the disk of the journals has room")
        self.world.disk_is_full = False

    def _move_clock(self, number: int) -> None:
        whose = ("server", "writer-1", "writer-2", "reader", "keeper")[number % 5]
        by = JUMPS_S[number % len(JUMPS_S)]
        self.world.tell(f"the clock of {whose} is set by {by:+g} s")
        if whose == "server":  # what expires there, expires sooner or later
            self.world.dead_at.clear()
            self.set_back_s += max(0.0, -by)
            for process in self.world.processes.values():
                process.leased_until = -math.inf
        self.world.offsets[whose] = self.world.offsets.get(whose, 0.0) + by

    # -- the end --------------------------------------------------------------------------------

    def end(self) -> None:
        """Everything is mended, everybody closes; then all promises have to hold."""
        world = self.world
        world.go_on(all_of_them=True)
        world.tell("-- all servers work again, and all processes close --")
        world.mongo.is_away = world.disk_is_full = False
        for part in world.redis.parts:
            part.is_away = part.is_full = False
        world.redis.end_moves()
        world.execute_late(all_of_them=True)
        # A lease that was given while the server's clock was ahead lasts longer.
        ahead_s = sum(max(0.0, one) for one in world.offsets.values())
        world.sleep(ASK_AGAIN_S + ahead_s + self.set_back_s)
        world.offsets.clear()
        for actor in sorted(world.processes):
            if world.processes[actor].mode != "sync" or actor.startswith("writer"):
                self.act(Step(actor, "flush", 0))
            self.act(Step(actor, "close", 0))
        world.sleep(LEASE_S + 1)
        self.act(Step("checker", "check", 0))

    def _check(self, running: Running, _: int) -> None:
        jam, world = running.process.jam, self.world
        assert jam is not None
        deliver_dead_journals(running.process.connection, is_restarted=True)
        left = sorted(one.name for one in world.files())
        left = [one for one in left if one.partition(".")[0] not in world.torn]
        if any(not one.endswith(".new") for one in left):
            self.violated(f"journals stay: {left}")
        world.sleep(HOLD_S)  # whoever had the lease is dead
        follower = self._follower(running.process)
        if not follower._leader_lock.claim():
            self.violated("a dead backup keeps the others from copying")
        jam.backup.flush()
        self.ledger.all_is_copied()
        if self.has_failed_over:  # Redis may lack what it had before, and MongoDB still has
            jam.backup.restore()
        report = jam.backup.verify()
        # A Redis that has lost a deletion has again what MongoDB has deleted for good.
        back = self.ledger.came_back()
        different = {
            key: what
            for key, what in report.different.items()
            if not any(one in key for one in back)
        }
        if different:
            self.violated(f"the backup is not equal: {different}")
        if world.elsewhere.names():
            self._check_elsewhere(jam, back)
        found = self._contents(running, "in the end")
        world.tell("Redis is emptied for good")
        for part in world.redis.parts:
            part.execute([(b"FLUSHALL",)])
        again = self._contents(running, "from MongoDB")
        for one in back:
            found.pop(one, None)
            again.pop(one, None)
        if found != again:
            self.violated(f"not the same from MongoDB: {found} and {again}")

    def _check_elsewhere(self, jam: Jamboree, back: set[str]) -> None:
        """The other backup has what this one has, and nothing else.

        But it may have got an end that a failover has lost since.
        """
        jam.backup.copy_to(ELSEWHERE)
        lost = {id for id, one in self.ledger.episodes.items() if one.has_lost_status}
        here, there = self.stored_in_mongo(), in_mongo(self.world.elsewhere, NAMESPACE, NAMESPACE)
        for found in (here, there):  # a batch that is stored twice is read once
            found.notes = {log: list(dict.fromkeys(names)) for log, names in found.notes.items()}
        for what in ("notes", "episodes", "statuses"):
            ours, theirs = getattr(here, what), getattr(there, what)
            different = {one for one in {*ours, *theirs} if ours.get(one) != theirs.get(one)}
            for one in sorted(different - back - (lost if what == "statuses" else set())):
                self.violated(
                    f"elsewhere {what} of {one} are {theirs.get(one)}, and not {ours.get(one)}"
                )

    def _contents(self, running: Running, when: str) -> Any:
        jam = running.process.jam
        assert jam is not None
        before = len(self.ledger.violations)
        found: dict[str, Any] = {}
        for log in LOGS:
            read = NoteHandler(jam, log).many(10**6)
            required, deleted = self.ledger.required_notes(log), self.ledger.deleted_notes()
            self.ledger.check_notes(log, read, required, when, deleted=deleted)
            found[log] = [(one["by"], one["n"], one["index"]) for one in read]
        statuses = {one.id: (one.status, one.steps) for one in jam.episodes().summaries()}
        for id, rows in self._rows_of(running.process, list(statuses)):
            self.ledger.check_rows(id, rows, when, deleted=self.ledger.deleted_episodes())
            found[id] = (statuses[id], len(rows))
        for one in self.ledger.episodes.values():
            self._check_episode(one, found.get(one.id), when)
        for what in self.ledger.violations[before:]:
            self.world.tell(f"VIOLATION: {what}")
        return found

    def _rows_of(self, process: Process, ids: list[str]) -> Iterator[tuple[str, list[float]]]:
        """What was observed in some episodes: read together, or by some seeds one by one."""
        assert process.jam is not None
        if self.world.reads_singly:
            for id in ids:
                data = process.jam.episode(id).data()
                self._check_infos(id, data.infos)
                yield id, data.observations[:, 0].tolist()
            return
        for id, decoded in zip(ids, whole_episodes(process.connection, ids), strict=True):
            rows = decoded().rows
            self._check_infos(id, rows.infos)
            yield id, rows.observations[:, 0].tolist()

    def _check_infos(self, id: str, infos: Sequence[Mapping[str, Any]]) -> None:
        """Each info is that of its row, if there are any."""
        told = [one.get("row") for one in infos]
        if any(one is not None for one in told) and told != list(range(len(infos))):
            self.violated(f"the infos of episode {id[-4:]} are those of {told}")

    def _check_episode(self, episode: Episode, found: Any, when: str) -> None:
        if episode.may_be_lost or episode.is_deleted:
            return
        if found is None:
            # A process that was killed without a journal may have left nothing.
            if episode.is_in_journal:
                self.ledger.violated(f"{when}: episode {episode.id[-4:]} is missing")
            return
        (status, steps), rows = found
        if steps != rows - 1:
            self.ledger.violated(
                f"{when}: episode {episode.id[-4:]} has {rows} rows, {steps} steps"
            )
        if episode.is_in_journal and rows < episode.rows:
            self.ledger.violated(
                f"{when}: episode {episode.id[-4:]} has {rows} rows of {episode.rows}"
            )
        expected = episode.status
        if expected == "interrupted" and rows > episode.length:
            expected = "terminated"  # by the step in which its process was killed
        if expected and status != expected and episode.is_in_journal:
            self.ledger.violated(
                f"{when}: episode {episode.id[-4:]} is {status}, and not {expected}"
            )
