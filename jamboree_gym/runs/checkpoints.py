"""Checkpoints of a run: a short record of each, and its content in a separate log."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

from jamboree_gym.checked import checked
from jamboree_gym.connection import HasConnection
from jamboree_gym.errors import CheckpointNotFound, DecodeError, InvalidArgument, UnsavedRecords
from jamboree_gym.handlers.db_handler import DBHandler

__all__ = ["Checkpoint", "CheckpointHandler"]

PART_BYTES: Final = 4 << 20  # so that neither Redis nor the backup gets a large value at once
_EVERYTHING: Final = 2**52
_PACKAGES: Final = (
    "stable_baselines3",
    "sb3_contrib",
)  # their classes need not be loaded to be known

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class _Content:
    """Bytes in a separate log.

    Attributes:
        name: Name of the log.
        size: Number of bytes.
        digest: SHA-256, hexadecimal.
    """

    name: str
    size: int
    digest: str


class ContentHandler(DBHandler):
    """Stores the bytes of a checkpoint, in parts."""

    def __init__(self, jam: HasConnection, run: str, name: str) -> None:
        super().__init__(jam)
        self.entity = "run-checkpoint-content"
        self.required = {"run": str, "name": str}
        self["run"], self["name"] = run, name

    def put(self, content: bytes) -> _Content:
        """Store the content; once for each name."""
        view = memoryview(content)
        for start in range(0, len(view), PART_BYTES):
            self.save({"content": bytes(view[start : start + PART_BYTES])})
        return _Content(self["name"], len(content), sha256(content).hexdigest())

    def read(self, kept: _Content) -> bytes:
        """Read the content back.

        Raises:
            CheckpointNotFound: The content is missing or incomplete.
            DecodeError: The content has changed since it was stored.
        """
        parts: list[bytes] = []
        while (part := self._part(len(parts))) is not None:
            parts.append(part)
        content = b"".join(parts)
        if len(content) < kept.size:
            raise CheckpointNotFound(
                f"{self._key} holds {len(content)} of {kept.size} bytes: the process died while it "
                "saved them, or they were deleted; take another checkpoint"
            )
        if sha256(content).hexdigest() != kept.digest:
            raise DecodeError(f"{self._key}: these are not the bytes that were saved")
        return content

    def is_whole(self, size: int) -> bool:
        """Whether the log holds this number of bytes; reads none of them."""
        return self.count() * PART_BYTES >= size

    def _part(self, index: int) -> bytes | None:
        found = self._connection.store.read(self._settled_key(), index, index + 1)
        part = next((one for one in self._records(found) if one["index"] == index), None)
        if part is None:
            return None
        content = part.get("content")
        if not isinstance(content, bytes):
            raise DecodeError(f"{self._key} at index {index}: no part of a checkpoint")
        return content


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model as it was at a timestep. Its content is read only on request.

    Attributes:
        number: Number of the checkpoint within the run, in order of creation.
        timesteps: The model's `num_timesteps`.
        policy_version: Number of updates that the policy has had. Steps are annotated with the
            same number.
        size: Size of the content, bytes.
        digest: SHA-256 of the content, hexadecimal digits.
        at: Time of creation, epoch seconds.
        session: Id of the session that made it.
        algorithm: Name of the model's class, for people: nothing is imported by that name.
        is_final: Whether a call of `learn` came to its end with it.
    """

    number: int
    timesteps: int
    policy_version: int
    size: int
    digest: str
    at: float
    session: str
    algorithm: str
    is_final: bool
    _content: _Content
    _normaliser: _Content | None
    _handler: CheckpointHandler

    def __repr__(self) -> str:
        """What it is, in one line."""
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.at))
        name = self.algorithm.rpartition(".")[2]
        return (
            f"<checkpoint {self.number}: {name} after {self.timesteps:,} timesteps, "
            f"{self.policy_version:,} updates, {self.size / 2**20:,.1f} MiB, {made}>"
        )

    def content(self) -> bytes:
        """The zip file that Stable-Baselines3 made of the model, checked against its digest.

        Raises:
            CheckpointNotFound: The content is missing or incomplete.
            DecodeError: The content is damaged.
        """
        return self._read(self._content)

    def normaliser(self) -> bytes | None:
        """The file that `VecNormalize.save` made; None if there was no `VecNormalize`.

        Raises:
            As `content`.
        """
        return None if self._normaliser is None else self._read(self._normaliser)

    def _read(self, kept: _Content) -> bytes:
        return self._handler.content(kept.name).read(kept)

    @checked
    def load(self, algorithm: type[Model], env: Any = None, **options: Any) -> Model:
        """A new model by the algorithm's own loader, with the statistics of its `VecNormalize`.

        The loader runs code from the zip file, as it does with any file. Load only from stores
        whose writers you trust.

        Example:
            >>> model = jam.run("ppo").checkpoint().load(PPO)

        Args:
            algorithm: The model's class: `PPO`, `DQN`, ...
            env: The environment to train on, wrapped as before; None = only predict.
            **options: More arguments for `algorithm.load`: `device=`, `custom_objects=`.

        Raises:
            InvalidArgument: The checkpoint is of another algorithm; or the model was trained with a
                `VecNormalize`, and the env has none.
            CheckpointNotFound: As `content`.
            DecodeError: As `content`.
        """
        self._check_is_of(algorithm)
        loaded: Any = algorithm
        model: Model = loaded.load(BytesIO(self.content()), env=env, **options)
        if env is not None and self._normaliser is not None:
            self._restore_normaliser(model)
        return model

    def _check_is_of(self, algorithm: type[Any]) -> None:
        """Refuse another algorithm than the model's own, a class of the same name, or a relative.

        Raises:
            InvalidArgument: It is another one; names both.
        """
        module, _, name = self.algorithm.rpartition(".")
        if not name or any(one.__name__ == name for one in algorithm.__mro__):
            return
        own = getattr(sys.modules.get(module), name, None)
        is_known = isinstance(own, type) or module.partition(".")[0] in _PACKAGES
        if is_known and not (isinstance(own, type) and issubclass(own, algorithm)):
            raise InvalidArgument(
                f"checkpoint {self.number} is of {name}, you asked for {algorithm.__name__}: use "
                f".load({name}), or .resume({name}, env)"
            )

    @checked
    def load_into(self, model: Any) -> None:
        """Copy the weights into an existing model. Nothing else in it changes, and no code runs.

        An actor can take over a learner's weights this way. They include the states of optimisers.

        Example:
            >>> jam.run("dqn").checkpoint().load_into(model)

        Args:
            model: A model of the same algorithm, policy and spaces.

        Raises:
            CheckpointNotFound: As `content`.
            DecodeError: As `content`; or the content is compressed, which no algorithm does.
        """
        content = self.content()
        try:
            _refuse_compressed(content)
        except (BadZipFile, NotImplementedError, OSError, RuntimeError, ValueError) as error:
            raise DecodeError(f"checkpoint {self.number} is not loaded: {error}") from error
        model.set_parameters(BytesIO(content), device=model.device)

    def _restore_normaliser(self, model: Any) -> None:
        own = model.get_vec_normalize_env()
        if own is None:
            raise InvalidArgument(
                f"checkpoint {self.number} was trained with a VecNormalize, and this env has none: "
                "wrap it as it was, VecNormalize(env), and load again"
            )
        with tempfile.TemporaryDirectory() as folder:  # its loader accepts only a path
            path = Path(folder, "vecnormalize.pkl")
            path.write_bytes(self.normaliser() or b"")
            kept = type(own).load(str(path), own.venv)
        own.obs_rms, own.ret_rms = getattr(kept, "obs_rms", None), kept.ret_rms

    def delete(self) -> None:
        """Delete the checkpoint from Redis and the backup. Its number is never used again."""
        self._handler.remove(self)


def _refuse_compressed(content: bytes) -> None:
    """Refuse compressed content: a few bytes could expand to gigabytes. Models are not compressed.

    Raises:
        ValueError: The content would take more memory than it has bytes.
        BadZipFile: The content is no zip file.
    """
    with ZipFile(BytesIO(content)) as archive:
        _refuse_compressed_members(archive, len(content))
        for member in archive.infolist():
            with archive.open(member) as weights:
                if not is_zipfile(weights):
                    continue
                with ZipFile(weights) as inner:
                    _refuse_compressed_members(inner, member.file_size)


def _refuse_compressed_members(archive: ZipFile, size: int) -> None:
    members = archive.infolist()
    if any(one.compress_type != ZIP_STORED for one in members):
        raise ValueError("it is compressed, but stored checkpoints never are")
    if sum(one.file_size for one in members) > size:
        raise ValueError(f"what is in it has more than its {size} bytes")


class CheckpointHandler(DBHandler):
    """Stores the records of a run's checkpoints; their contents lie in separate logs.

    Example:
        >>> handler = CheckpointHandler(jam, "ppo")
        >>> handler.put(content, timesteps=2048, policy_version=10, session="s1")
        >>> handler.checkpoints()[-1].timesteps
        2048
    """

    def __init__(self, jam: HasConnection | None = None, run: str = "") -> None:
        super().__init__(jam)
        self.entity = "run-checkpoint"
        self.required = {"run": str}
        self["run"] = run

    def content(self, name: str) -> ContentHandler:
        """The handler for the content of this name."""
        return ContentHandler(self._connection, self["run"], name)

    def contents(self) -> list[ContentHandler]:
        """The handlers for the contents of all checkpoints, also of those that are deleted.

        Raises:
            DecodeError: The stored records are not those of checkpoints.
        """
        found = [self._checkpoint(one) for one in self.many(_EVERYTHING)]
        kept = [one for each in found for one in (each._content, each._normaliser)]
        return [self.content(one.name) for one in kept if one is not None]

    def put(
        self,
        content: bytes,
        *,
        timesteps: int,
        policy_version: int,
        session: str,
        algorithm: str = "",
        normaliser: bytes | None = None,
        is_final: bool = False,
    ) -> None:
        """Store a checkpoint, its content first. An incomplete checkpoint is never loaded.

        Args:
            content: The zip file.
            timesteps: The model's `num_timesteps`.
            policy_version: Number of updates that the policy has had.
            session: Id of the session.
            algorithm: Name of the model's class.
            normaliser: The file that `VecNormalize.save` writes.
            is_final: Whether the session ends with it.
        """
        name = self._connection.new_episode_id()
        kept = self.content(name).put(content)
        beside = None
        if normaliser is not None:
            beside = self.content(f"{name}-normaliser").put(normaliser)
        self.save(
            {
                "timesteps": timesteps,
                "policy_version": policy_version,
                "session": session,
                "algorithm": algorithm,
                "is_final": is_final,
                "content": [kept.name, kept.size, kept.digest],
                "normaliser": beside and [beside.name, beside.size, beside.digest],
            }
        )

    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that are not deleted, the oldest first; reads no content.

        Raises:
            DecodeError: The stored records are not those of checkpoints.
        """
        deleted = {one["number"] for one in self.deletions.many(_EVERYTHING)}
        found = self.many(_EVERYTHING)
        return [self._checkpoint(one) for one in found if one["index"] not in deleted]

    def _settle(self) -> bool:
        """The same once this process has saved: contents are stored before their records."""
        with suppress(UnsavedRecords):  # without a server, the next line raises
            self._connection.flush(timeout_s=0)
        return super()._settle()

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint. Usually reads only one record, even if there are many."""
        record = self.last()
        if record is None:
            return None
        last = self._checkpoint(record)
        if self._is_whole(last):
            return last
        return next(filter(self._is_whole, reversed(self.checkpoints())), None)

    def _is_whole(self, checkpoint: Checkpoint) -> bool:
        """Whether it is neither deleted nor incomplete."""
        return self.content(checkpoint._content.name).is_whole(checkpoint.size)

    def _checkpoint(self, record: Mapping[str, Any]) -> Checkpoint:
        try:
            content = _Content(*record["content"])
            beside = None if record["normaliser"] is None else _Content(*record["normaliser"])
            return Checkpoint(
                record["index"],
                record["timesteps"],
                record["policy_version"],
                content.size,
                content.digest,
                record["timestamp"],
                record["session"],
                record["algorithm"],
                record.get("is_final", False),  # an earlier release did not say
                content,
                beside,
                self,
            )
        except (KeyError, TypeError) as error:
            raise DecodeError(f"{self._key}: not a checkpoint: {error!r}") from error

    def remove(self, checkpoint: Checkpoint) -> None:
        """Delete a checkpoint with its content."""
        self.deletions.save({"number": checkpoint.number})
        for kept in (checkpoint._content, checkpoint._normaliser):
            if kept is not None:
                self.content(kept.name).delete()

    @property
    def deletions(self) -> _DeletedHandler:
        """The handler for the numbers of deleted checkpoints."""
        return _DeletedHandler(self._connection, self["run"])


class _DeletedHandler(DBHandler):
    """Stores the numbers of deleted checkpoints."""

    def __init__(self, jam: HasConnection, run: str) -> None:
        super().__init__(jam)
        self.entity = "run-checkpoint-deleted"
        self.required = {"run": str}
        self["run"] = run
