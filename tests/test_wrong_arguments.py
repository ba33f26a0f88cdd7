"""What happens to arguments of a wrong type: each public call refuses each of them by its name."""

from __future__ import annotations

import importlib
import inspect
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from processes import threads_here
from recorded_envs import ACTION, CountingEnv
from stored import keys_like

from jamboree_gym import Jamboree, JamboreeError

MODULES = [
    "jamboree_gym",
    "jamboree_gym.backup",
    "jamboree_gym.handlers.rendered_frames",
    "jamboree_gym.handlers.snapshots",
    "jamboree_gym.integrations.datasets",
    "jamboree_gym.integrations.hdf5",
    "jamboree_gym.integrations.lerobot",
    "jamboree_gym.integrations.minari",
    "jamboree_gym.integrations.rlds",
    "jamboree_gym.reading.query",
    "jamboree_gym.replay",
    "jamboree_gym.runs.checkpoints",
    "jamboree_gym.runs.run",
    "jamboree_gym.runs.run_query",
    "jamboree_gym.servers.embedded",
    "jamboree_gym.wrappers",
    "jamboree_gym.wrappers.vector",
]
TORCH_MODULES = [
    pytest.param("jamboree_gym.integrations.sb3", marks=pytest.mark.torch),
    # To import TorchRL takes seconds.
    pytest.param("jamboree_gym.integrations.torchrl", marks=[pytest.mark.torch, pytest.mark.long]),
]

VALUES: dict[str, Any] = {
    "none": None,
    "flag": True,
    "whole": 3,
    "numpy whole": np.int64(3),
    "negative": -1,
    "fraction": 2.5,
    "nan": float("nan"),
    "text": "some text",
    "empty text": "",
    "bytes": b"bytes",
    "list": [object()],
    "dict": {"name": object()},
    "array": np.zeros(2),
    "function": len,
    "class": object,
    "object": object(),
}

# What an annotation takes of these. This is written down here once more on purpose: a mistake in
# how annotations are read does not hide itself.
TAKEN: dict[str, Collection[str]] = {
    "None": {"none"},
    "bool": {"flag"},
    "int": {"whole", "numpy whole", "negative"},
    "Count": {"whole", "numpy whole"},
    "float": {"whole", "numpy whole", "negative", "fraction"},
    "Seconds": {"whole", "numpy whole", "fraction"},
    "EpochSeconds": {"whole", "numpy whole", "negative", "fraction"},
    "str": {"text"},
    "Mapping[str, Any]": {"dict"},
    "Progress": {"function", "class"},
    "EpisodeTest": {"function", "class"},
    "ChooseAction": {"function", "class"},
    "type[Model]": {"class"},
    **dict.fromkeys(["AnyParent", "Checkpoint", "Connection", "Episode", "EpisodeQuery"], ()),
    **dict.fromkeys(["JointEpisode"], ()),
    **dict.fromkeys(["EnvSpec", "HasConnection", "MinariDataset", "Predictor", "slice"], ()),
    **dict.fromkeys(["OnMismatch", "ShownFrames", "VecEnv", "WhenFull", "WriteMode"], ()),
    **dict.fromkeys(["Path", "Source", "ReplayBuffer", "VerifyReport"], ()),
}
KINDS: dict[str, Collection[str]] = {
    "Callable": {"function", "class"},
    **dict.fromkeys(["Collection", "Iterable", "Mapping", "Sequence", "Literal"], ()),
    **dict.fromkeys(["VectorEnv", "gym.Env", "os.PathLike", "spaces.Space", "type"], ()),
}
ALIASES = {
    "RecordFrames": "bool | int | Callable[[int], bool] | None",
    "RunNames": "str | Sequence[str]",
    "MakeAgain": "Callable[[], gym.Env]",
}

# These types are known to type checkers only: importing them for the check would cost seconds.
UNCHECKED = {"Any", "torch.device", "VecNormalize", "Sampler"}

EXEMPT = {
    "hot: called for each step or record, and refuses what it cannot store": (
        "save save_many step reset annotate add add_step set_action step_async step_wait "
        "plain_steps update_priorities"
    ),
    "called by the package, with what it has made itself": (
        "put begin begin_child use_spaces end rows after_fork_in_child back_up rendered found_by "
        "ForkedEnv RenderRecorder SnapshotRecorder EmbeddedServers "
        "CheckpointHandler CheckpointHandler.content CheckpointHandler.remove Difference.first_of"
    ),
    "a record that the package makes, and users read": (
        "BackupReport BackupStatus Change Checkpoint EpisodeData EpisodeSummary Mismatch "
        "PrioritizedSamples ReplayedStep Reproducibility RetentionPolicy ServerStatus StepData "
        "Trajectory Transitions Trimmed Unsaved VerifyReport Video WhatIf WouldEvict"
    ),
    "a Protocol, for classes of users": "Snapshotable.restore",
    "says of any name that no key is declared under it": "DBHandler.__getitem__",
}
EXEMPT_NAMES = {name for names in EXEMPT.values() for name in names.split()}

# What a call that hands its arguments on needs besides the wrong one.
NEEDED = {"step": 0, "policy": len}


SEEN: set[Callable[..., Any]] = set()


def callables(module: str) -> Iterator[tuple[str, Callable[..., Any], type | None]]:
    """Each public function, constructor and method: its name, itself, and the class."""
    loaded = importlib.import_module(module)
    for name in loaded.__all__:
        found = getattr(loaded, name)
        if isinstance(found, type) and issubclass(found, BaseException):
            continue
        if not isinstance(found, type):
            if inspect.isfunction(found):
                yield name, found, None
            continue
        if "__init__" in vars(found):
            yield name, found.__init__, found  # type: ignore[misc] # it is called unbound
        for base in found.__mro__:
            if base.__module__.startswith("jamboree_gym"):
                for method, function in vars(base).items():
                    function = getattr(function, "__func__", function)
                    is_public = not method.startswith("_") or method == "__getitem__"
                    if is_public and inspect.isfunction(function):
                        yield f"{name}.{method}", function, found


def arguments(function: Callable[..., Any]) -> Iterator[tuple[str, str, bool]]:
    """Name and annotation of each argument, and whether it has no name for callers."""
    for at, one in enumerate(inspect.signature(function).parameters.values()):
        if one.kind is one.VAR_KEYWORD and "Unpack" in str(one.annotation):
            kind = re.sub(r"Unpack\[(.*)\]", r"\1", one.annotation)
            hints = inspect.unwrap(function).__globals__[kind].__annotations__
            yield from ((name, hint.__forward_arg__, False) for name, hint in hints.items())
        elif one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and (
            at or one.name not in ("self", "cls")
        ):
            yield one.name, str(one.annotation), one.kind is one.POSITIONAL_ONLY


def parts(annotation: str) -> Iterator[str]:
    """The types of a union."""
    for part in re.split(r" \| (?![^\[]*\])", annotation):
        yield from parts(ALIASES[part]) if part in ALIASES else (part,)


def wrong_values(annotation: str) -> list[str] | None:
    """Which of `VALUES` the annotation does not take; None = it takes any."""
    taken: set[str] = set()
    for part in parts(annotation):
        if part in UNCHECKED:
            return None
        taken.update(TAKEN[part] if part in TAKEN else KINDS[part.partition("[")[0]])
    return [name for name in VALUES if name not in taken]


def stored(jam: Jamboree) -> Mapping[bytes, bytes]:
    found = keys_like(jam.redis, f"*{jam._connection.keyspace.namespace}:*")
    return {key: jam.redis.dump(key) for key in found}


def surroundings(folder: Path) -> set[Any]:
    """Threads, processes and files; those of other tests may end meanwhile."""
    return {*threads_here(), *psutil.Process().children(), *folder.iterdir()}


@pytest.fixture(scope="module")
def tried() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    yield counted
    print("\n" + ", ".join(f"{number} {what}" for what, number in counted.items()))


@pytest.mark.parametrize("module", [*MODULES, *TORCH_MODULES])
def test_a_wrong_type_is_refused_by_the_name_of_the_argument_and_changes_nothing(
    module: str,
    jam: Jamboree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: Counter[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    env = jam.record(CountingEnv())
    env.reset()
    env.step(ACTION)
    jam.flush()
    public = list(callables(module))
    kept, before = stored(jam), surroundings(tmp_path)
    unlike: list[str] = []
    for name, function, kind in public:
        if function in SEEN:  # inherited, or public under two names
            continue
        SEEN.add(function)
        qualified = inspect.unwrap(function).__qualname__
        if EXEMPT_NAMES & {name, qualified, qualified.rpartition(".")[2]}:
            continue
        asked = list(arguments(function))
        tried["callables"] += bool(asked)
        for argument, annotation, has_no_name in asked:
            wrong = wrong_values(annotation)
            if wrong is None:
                tried["arguments of any type"] += 1
                continue
            tried["arguments"] += 1
            for value in wrong:
                tried["values"] += 1
                of = instance(kind, jam, env.episode_id)
                said = answer_in_time(
                    function, of, argument, VALUES[value], has_no_name=has_no_name
                )
                if said is not None:
                    unlike.append(f"{name}({argument}={value}): {annotation}: {said}")
    assert not unlike, "\n".join(unlike)
    assert stored(jam) == kept
    assert surroundings(tmp_path) <= before


def instance(kind: type | None, jam: Jamboree, episode_id: str) -> tuple[Any, ...]:
    """What a method is called on: nothing of it is used, except where it hands arguments on."""
    if kind is None:
        return ()
    return (jam.episode(episode_id),) if kind.__name__ == "Episode" else (object.__new__(kind),)


def answer(
    function: Callable[..., Any],
    of: tuple[Any, ...],
    argument: str,
    value: Any,
    *,
    has_no_name: bool,
) -> str | None:
    """What is not as it should be where a call is given a value for one argument."""
    named = {} if has_no_name else {argument: value}
    others = inspect.signature(function).parameters
    needed = {name: one for name, one in NEEDED.items() if name in others and name != argument}
    try:
        function(*of, *((value,) if has_no_name else ()), **{**needed, **named})
    except JamboreeError as error:
        text = str(error)
        if not text.startswith(argument) or text.count("\n") > 1:
            return f"it says {text}"
    except Exception as error:  # noqa: BLE001 - any other is what this looks for
        return f"it raises {error!r}"
    else:
        return "it is taken"
    return None


def answer_in_time(*call: Any, **options: Any) -> str | None:
    """As `answer`; a call that takes a second each time waits for something."""
    for _ in range(3):
        began = time.perf_counter()
        said = answer(*call, **options)
        if said is not None or time.perf_counter() - began < 1:
            return said
    return "it takes a second"
