"""Stored arguments that name a module: an environment that imports what it is given gets none."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from forged import forge_origin, forge_provenance
from gymnasium.envs.classic_control import CartPoleEnv
from replayed_envs import record

from jamboree_gym import Jamboree
from jamboree_gym.arrays.values import encode_value
from jamboree_gym.errors import ReplayError
from jamboree_gym.reading.episode import Episode
from jamboree_gym.replay import ReplayEnv, fork, verify, what_if
from jamboree_gym.replay.rebuilding.named_modules import names_module
from jamboree_gym.replay.video import video


class ImportingEnv(CartPoleEnv):
    """Imports whatever looks like a name in its arguments and in the options of a reset."""

    def __init__(self, config: Any = None, render_mode: str | None = None, **more: Any) -> None:
        super().__init__(render_mode)
        import_all([config, more])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        import_all(options)
        return super().reset(seed=seed)


class ImportingWrapper(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Likewise."""

    def __init__(self, env: Any, kind: Any = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, kind=kind)
        super().__init__(env)
        import_all(kind)


def import_all(value: Any) -> None:
    if isinstance(value, str):
        with contextlib.suppress(Exception):
            importlib.import_module(value.partition(":")[0])
        with contextlib.suppress(Exception):
            importlib.import_module(value.rpartition(".")[0])
    elif isinstance(value, dict):
        import_all([*value, *value.values()])
    elif isinstance(value, (list, tuple, set, np.ndarray)):
        for one in value:
            import_all(one)


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules that leave a mark when they are imported: `trap`, `cage.trap` and `field/trap`."""
    mark = tmp_path / "imported"
    trap = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Trap: pass\n"
    (tmp_path / "trap.py").write_text(trap)
    for folder in ("cage", "field", "field/inner", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cage" / "__init__.py").write_text(trap)
    for folder in ("cage", "field", "field/inner"):
        (tmp_path / folder / "trap.py").write_text(trap)
    monkeypatch.syspath_prepend(tmp_path)
    gym.register("Importing-v0", entry_point=ImportingEnv, max_episode_steps=20)
    yield mark
    del gym.registry["Importing-v0"]
    for name in [name for name in sys.modules if name.split(".")[0] in ("trap", "cage", "field")]:
        del sys.modules[name]


@pytest.fixture
def episode(jam: Jamboree) -> Episode:
    return record(jam, gym.make("Importing-v0"), seed=1, run="named")


ARGUMENTS = {
    "a class": {"config": "trap.Trap"},
    "an entry point": {"config": "trap:Trap"},
    "a registered id": {"config": "trap:Trap-v0"},
    "a value": {"config": {"type": "trap.Trap"}},
    "a key": {"config": {"trap.Trap": 1}},
    "deep": {"config": [{"a": [1, {"b": ["cage.trap.Trap"]}]}]},
    "of a package": {"config": "cage.Trap"},
    "below a mere directory": {"config": "field.trap.Trap"},
    "two mere directories": {"config": "field.inner.trap:Trap"},
    "an argument of another name": {"more": "trap.Trap"},
}
USES: dict[str, Callable[[Episode, bool], Any]] = {
    "verify": lambda e, trust: verify(e, trust_entry_point=trust),
    "fork": lambda e, trust: fork(e, 1, record=False, trust_entry_point=trust).close(),
    "what_if": lambda e, trust: what_if(e, 1, lambda _: 0, n=1, trust_entry_point=trust),
}


def forged_kwargs(jam: Jamboree, episode: Episode, **changes: Any) -> Episode:
    return forge_provenance(jam, episode, lambda p: p["env_spec"]["kwargs"].update(changes))


@pytest.mark.parametrize(
    "config",
    [
        ("trap.Trap",),
        {1: "trap:Trap"},
        np.array([["trap.Trap"]], object),
        np.array([("trap.Trap", 1)], [("a", "<U9"), ("b", "i4")]),
        np.array(("trap.Trap",), [("a", "O")])[()],
        Path("trap.Trap"),
        b"trap.Trap",
    ],
    ids=lambda config: type(config).__name__,
)
def test_arguments_that_are_kept_as_bytes_are_looked_through(
    jam: Jamboree, episode: Episode, canary: Path, config: Any
) -> None:
    exact = {"config": encode_value(config).hex()}
    forged = forge_provenance(jam, episode, lambda p: p["env_spec"]["exact"].update(exact))

    with pytest.raises(ReplayError, match=r"'trap[.:]Trap' .*names a module"):
        verify(forged)
    assert not canary.exists()


@pytest.mark.parametrize("exact", [[], {"config": 1}, {"config": "zz"}, {"config": "c1"}], ids=str)
def test_arguments_that_are_no_bytes_of_ours_are_damage(
    jam: Jamboree, episode: Episode, exact: Any
) -> None:
    forged = forge_provenance(jam, episode, lambda p: p["env_spec"].update(exact=exact))

    with pytest.raises(ReplayError, match="provenance is damaged"):
        verify(forged)


def options_of(value: Any) -> dict[str, Any]:
    return {"config": {"kinds": value}}


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_arguments_that_name_a_module_are_refused(
    jam: Jamboree, episode: Episode, canary: Path, arguments: str
) -> None:
    forged = forged_kwargs(jam, episode, **ARGUMENTS[arguments])

    with pytest.raises(ReplayError, match=r"trap|cage|field") as refused:
        verify(forged)

    assert len(str(refused.value).splitlines()) == 2
    assert "trust_entry_point=True" in str(refused.value)
    assert next(iter(ARGUMENTS[arguments])) in str(refused.value)
    assert not canary.exists()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("where", ["arguments", "options", "options of the one before"])
def test_nothing_imports_them_unless_it_is_trusted(
    jam: Jamboree, episode: Episode, canary: Path, use: str, where: str
) -> None:
    if where == "arguments":
        forged = forged_kwargs(jam, episode, config="trap.Trap")
    elif where == "options":
        forged = forge_origin(jam, episode, options=options_of(["trap.Trap"]))
    else:
        forge_origin(jam, episode, options=options_of(["trap.Trap"]))
        later = record(jam, gym.make("Importing-v0"), seed=1, run="named")
        forged = forge_origin(jam, later, seed=None, follows=episode.id)

    with pytest.raises(ReplayError, match=r"'trap\.Trap' .*names a module"):
        USES[use](forged, False)
    assert not canary.exists()

    with contextlib.suppress(ReplayError):
        USES[use](forged, True)
    assert canary.exists()


@pytest.mark.parametrize(
    "kinds",
    [
        *(np.array(["trap.Trap"]), np.array([b"trap.Trap"])),
        *(("trap.Trap",), {"trap.Trap"}, {"trap.Trap": 1}, b"trap.Trap"),
    ],
    ids=repr,
)
def test_options_may_hold_them_in_any_container(
    jam: Jamboree, episode: Episode, canary: Path, kinds: Any
) -> None:
    forged = forge_origin(jam, episode, options=options_of(kinds))

    with pytest.raises(ReplayError, match=r"the reset was given b?'trap\.Trap'"):
        verify(forged)
    assert not canary.exists()


@pytest.mark.parametrize("trust", [False, True])
def test_an_own_wrapper_gets_none_either(
    jam: Jamboree, episode: Episode, canary: Path, trust: bool
) -> None:
    one = {"name": "ImportingWrapper", "entry_point": f"{__name__}:ImportingWrapper"}
    one |= {"kwargs": {"kind": ["trap.Trap"]}}
    forged = forge_provenance(
        jam, episode, lambda p: p["env_spec"]["additional_wrappers"].append(one)
    )
    refused = pytest.raises(ReplayError, match=r"Wrapper was given 'trap\.Trap'")

    with contextlib.suppress(ReplayError) if trust else refused:
        verify(forged, wrappers=[ImportingWrapper], trust_entry_point=trust)

    assert canary.exists() == trust


def test_frames_videos_and_processes_import_none(
    jam: Jamboree, episode: Episode, canary: Path, tmp_path: Path
) -> None:
    forged = forged_kwargs(jam, episode, config="trap.Trap")
    replay = ReplayEnv(forged, render_mode="rgb_array", frames="simulated")
    replay.reset()
    with pytest.raises(ReplayError, match="names a module"):
        replay.render()
    with pytest.raises(ReplayError, match="names a module"):
        video(forged, tmp_path / "video.gif")
    (report,) = verify([forged])

    assert "names a module" in str(report.error)
    assert not canary.exists()


def test_what_is_registered_here_is_no_name_from_the_store(jam: Jamboree, canary: Path) -> None:
    config = {"type": "trap.Trap"}
    gym.register("Registered-v0", entry_point=ImportingEnv, kwargs={"config": config})
    try:
        episode = record(jam, gym.make("Registered-v0", max_episode_steps=9), seed=1, run="named")
        assert verify(episode)
        assert canary.exists()
        with pytest.raises(ReplayError, match="names a module"):
            verify(forged_kwargs(jam, episode, more="trap.Trap"))
    finally:
        del gym.registry["Registered-v0"]


@pytest.mark.parametrize(
    "text",
    [
        *("rgb_array", "human", "ant.xml", "./a.b", "../trap.Trap", "ALE/Pong-v5", "pong", "1.5"),
        *("Pong-v5", "v1.2.3", "", ".", ":", "..", "a b.c", "Trap", "trap", "/tmp/trap.py"),
        *("https://trap.org/x", "http://trap.org", "redis://localhost:6379/0", "C:\\trap.Trap"),
        *("localhost:6379", "cuda:0", "nowhere.at.all", "half_cheetah.xml", "empty.zip", "a.b"),
        *("field.nothing", "field.inner.nothing", "x\0.y", "\ud800.x", "e.g. this", "Go: left."),
        *("random:0.5", "3.trap", "trap/Trap.x", "трап.Trap", "." * 5000, "a." * 5000 + "b"),
    ],
)
def test_ordinary_texts_name_none(text: str, canary: Path) -> None:
    assert not names_module(text)
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        *("trap.Trap", "trap:Trap", "trap:Trap.make", "trap.a.b.c", "trap:Trap-v0", "trap://x"),
        *("cage.trap", "cage.nothing", "cage.trap:Trap", "field.trap", "field.inner.trap.Trap"),
        *("os.system", "os:system", "subprocess.Popen", "builtins.eval", "__main__.main"),
        *("gymnasium.envs.classic_control:CartPoleEnv", "sys.modules", "trap.x"),
    ],
)
def test_what_can_be_found_is_named_without_an_import(text: str, canary: Path) -> None:
    before = set(sys.modules)

    assert names_module(text)

    assert set(sys.modules) == before
    assert not canary.exists()
