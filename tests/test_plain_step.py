"""The compiled core: what it takes, that it writes the same bytes, and that nobody needs it."""

from __future__ import annotations

import gc
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_common_rows import GOAL, outbox

from jamboree_gym.arrays import packing
from jamboree_gym.arrays.layout import layout_of
from jamboree_gym.compiled import compiled_core
from jamboree_gym.delivery.step_outbox import StepOutbox
from jamboree_gym.encoding.info_codec import InfoEncoder
from jamboree_gym.recording import plain_steps

ROOT = Path(__file__).resolve().parent.parent


def warm_outbox(annotation: dict[str, Any] | None = None) -> StepOutbox:
    """It has a first step, which is never taken quickly."""
    box = outbox(GOAL, may_be_common=True)
    box.packed_action = np.int64(1)
    box.add_step(GOAL, 0.0, False, False, None, annotation)
    return box


USUAL = (GOAL, 1.0, False, False, {})
ODD: dict[str, Any] = {
    "an info": (GOAL, 1.0, False, False, {"lives": 3}),
    "a list": [*USUAL],
    "four values": USUAL[:4],
    "None": None,
    "an int as reward": (GOAL, 1, False, False, {}),
    "a flag of another kind": (GOAL, 1.0, 0, False, {}),
    "another dtype": (GOAL.astype(np.float64), 1.0, False, False, {}),
    "another shape": (GOAL[:2], 1.0, False, False, {}),
    "one more axis": (GOAL[None], 1.0, False, False, {}),
    "not one after the other": (np.repeat(GOAL, 2)[::2], 1.0, False, False, {}),
    "a list as observation": (GOAL.tolist(), 1.0, False, False, {}),
    "a subclass": (GOAL.view(np.recarray), 1.0, False, False, {}),
    "a masked array": (np.ma.array(GOAL), 1.0, False, False, {}),
}


@pytest.mark.compiled
def test_steps_as_most_are_take_the_compiled_way() -> None:
    assert plain_steps.add_plain_step is not None
    box = warm_outbox()

    for reward in (1.0, np.float64(-0.0), math.nan):
        for flag in (False, np.False_):
            assert plain_steps.add_plain_step(box, (GOAL, reward, flag, flag, {}), None, None)

    rows = box.recent(6)
    assert rows is not None
    assert rows.rewards[1:].tolist()[:4] == [1.0, 1.0, -0.0, -0.0]


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("terminated", "truncated", "status"),
    [
        (True, False, "terminated"),
        (np.False_, np.True_, "truncated"),
        (np.True_, True, "terminated"),
    ],
)
def test_the_last_step_takes_the_compiled_way(terminated: Any, truncated: Any, status: str) -> None:
    assert plain_steps.add_plain_step is not None
    box, by_python = warm_outbox(), warm_outbox()

    returned = (GOAL, 1.0, terminated, truncated, {})
    assert plain_steps.add_plain_step(box, returned, None, None) == status
    by_python.add_step(GOAL, 1.0, bool(terminated), bool(truncated), None)

    box.seal()
    by_python.seal()
    assert box.next_append() == by_python.next_append()
    assert box.summary.status == status


@pytest.mark.compiled
@pytest.mark.parametrize("returned", ODD.values(), ids=ODD.keys())
def test_an_odd_step_is_left_to_python(returned: Any) -> None:
    assert plain_steps.add_plain_step is not None
    box = warm_outbox()

    assert plain_steps.add_plain_step(box, returned, None, None) is None
    assert box.rows_put == 2
    assert plain_steps.add_plain_step(box, USUAL, None, None) == "running"


@pytest.mark.compiled
@pytest.mark.parametrize("action", [np.int32(1), 2**63, 0.5, b"1234567", None, np.int64])
def test_an_action_that_its_row_does_not_hold_is_left_to_python(action: Any) -> None:
    assert plain_steps.add_plain_step is not None
    box = warm_outbox()
    box.packed_action = action

    assert plain_steps.add_plain_step(box, USUAL, None, None) is None
    assert box.rows_put == 2


@pytest.mark.compiled
def test_who_is_no_outbox_is_refused() -> None:
    assert plain_steps.add_plain_step is not None
    for arguments in (
        (object(), USUAL, None, None),
        (None, None, None, None),
        (StepOutbox, USUAL, None, None),
        (warm_outbox(), USUAL, None),
        (warm_outbox(), USUAL, {}, None),
    ):
        with pytest.raises(TypeError, match="takes a RowWriter"):
            plain_steps.add_plain_step(*arguments)  # type: ignore[arg-type]


@pytest.mark.compiled
def test_an_error_of_the_clock_writes_nothing() -> None:
    assert plain_steps.add_plain_step is not None
    box = warm_outbox()

    def broken() -> float:
        raise ZeroDivisionError

    box._clock = broken
    with pytest.raises(ZeroDivisionError):
        plain_steps.add_plain_step(box, USUAL, None, None)
    box._clock = lambda: "noon"  # type: ignore[assignment, return-value]
    assert plain_steps.add_plain_step(box, USUAL, None, None) is None
    assert box.rows_put == 2


@pytest.mark.compiled
def test_what_it_was_given_is_not_kept() -> None:
    assert plain_steps.add_plain_step is not None
    said = {"value": np.float32(0.5), "policy_version": 2**40, "q_values": GOAL.copy()}
    box = warm_outbox(said)
    observation, reward, action = GOAL.copy(), np.float64(0.5), np.int64(1)
    info = {"x": np.float64(0.5), "survive": 1.0, "mask": GOAL.copy()}
    encoder = InfoEncoder()
    encoder.encode(info)
    template = encoder.compiled
    box.packed_action = action
    given = (box, observation, reward, action, info, observation.dtype, box._content, box._words)
    given = (*given, template, *info.values(), *said.values(), box._annotation)
    before = list(map(sys.getrefcount, given))

    for flag in [False] * 100 + [0] * 100:
        plain_steps.add_plain_step(box, (observation, reward, flag, False, info), template, said)

    assert list(map(sys.getrefcount, given)) == before
    assert box.rows_put == 102


@pytest.mark.compiled
def test_a_template_that_is_gone_keeps_nothing() -> None:
    mask = GOAL.copy()
    info = {"é" * 40: np.float64(0.5), "mask": mask}
    kept = (*info, mask, mask.dtype, np.float64)
    gc.collect()  # numbers that other tests have left
    before = list(map(sys.getrefcount, kept))

    for _ in range(100):
        encoder = InfoEncoder()
        encoder.encode(info)
        assert encoder.compiled.encode(info) is not None
        assert encoder.compiled.encode({"mask": mask, "x": 1}) is None
    del encoder

    assert list(map(sys.getrefcount, kept)) == before


@pytest.mark.compiled
@pytest.mark.parametrize(
    "field",
    [
        ("x", float, "m", 1, None, None),
        ("x", float, "m", -1, None, None),
        ("x", float, "m", 2**70, None, None),
        ("x", float, "q", 0, None, None),
        ("x", int, "d", 0, None, None),
        ("x", int, "s", 0, np.dtype(int), None),
        ("x", np.float64, "s", 0, np.dtype(np.float32), None),
        ("x", np.float64, "s", 0, None, None),
        ("x", np.float64, "f", 0, None, None),
        ("x", np.str_, "s", 0, np.dtype("U1"), None),
        ("x", np.ndarray, "a", 0, GOAL.dtype, (3,)),
        ("x", np.ndarray, "a", 0, GOAL.dtype, (2**62, 2**62)),
        ("x", np.ndarray, "a", 0, GOAL.dtype, (-1,)),
        ("x", np.ndarray, "a", 0, GOAL.dtype, [1]),
        ("x", np.ndarray, "a", 0, np.dtype(object), (1,)),
        ("x", float, "z", 0, None, None),
        ("x", float, "mm", 0, None, None),
        (1, float, "m", 0, None, None),
        ("x", "float", "m", 0, None, None),
        ("x", float, "m", 0, None),
        "xmm",
    ],
)
def test_a_template_that_would_write_elsewhere_is_refused(field: Any) -> None:
    core = compiled_core()
    assert core is not None
    core.Template(b"12345678", 8, (("x", float, "m", 0, None, None),))
    with pytest.raises((TypeError, ValueError, OverflowError)):
        core.Template(b"12345678", 8, (field,))


@pytest.mark.compiled
def test_a_template_for_an_annotation_encodes_nothing() -> None:
    """It would write behind its content, of which it has none."""
    core = compiled_core()
    assert core is not None
    template = core.Template(b"", 8, (("x", float, "d", 0, None, None),))

    assert template.encode({"x": 1.0}) is None
    assert plain_steps.add_plain_step is not None
    returned = (GOAL, 1.0, False, False, {"x": 1.0})
    assert not plain_steps.add_plain_step(warm_outbox(), returned, template, None)


SAID: dict[str, Any] = {
    "value": np.float32(0.25),
    "policy_version": -(2**63),
    "greedy": True,
    "entropy": 0.5,
    "log_prob": np.float64(-0.5),
    "q_values": np.array([1.5, 2.5]),
    "skill": np.int16(-3),
    "half": np.float16(0.5),
}


@pytest.mark.compiled
@pytest.mark.parametrize("name", SAID)
def test_annotations_take_the_compiled_way(name: str) -> None:
    assert plain_steps.add_plain_step is not None
    box = warm_outbox({name: SAID[name]})

    assert plain_steps.add_plain_step(box, USUAL, None, {name: SAID[name]})
    assert plain_steps.add_plain_step(box, USUAL, None, None)
    for odd in ({name: "text"}, {"other": SAID[name]}, {name: SAID[name], "x": 1}, {}, "said"):
        assert not plain_steps.add_plain_step(box, USUAL, None, odd)

    assert not plain_steps.add_plain_step(box, USUAL, None, {name: 2**63})
    rows = box.recent(2)
    assert rows is not None
    assert rows.annotated.tolist() == [True, True, False]
    column = rows.annotations[name]
    assert column.dtype == np.asarray(SAID[name]).dtype
    assert np.array_equal(column[0], SAID[name])
    assert np.array_equal(column[1], SAID[name])


@pytest.mark.compiled
def test_infos_fill_blocks_from_the_back() -> None:
    """Over several blocks: no info is written over a row, and no row over an info."""
    assert plain_steps.add_plain_step is not None
    box, encoder, left = warm_outbox(), InfoEncoder(), 0
    for step in range(2000):
        info = {"x": np.float64(step), "more": np.full(10, step, np.int16)}
        returned = (GOAL, float(step), False, False, info)
        if not plain_steps.add_plain_step(box, returned, encoder.compiled, None):
            left += 1
            box.add_step(GOAL, float(step), False, False, encoder.encode(info))

    assert 2000 / 256 <= left < 50
    rows = box.window(2)
    assert rows is not None
    assert rows.rewards.tolist() == [float(step) for step in range(2000)]
    for step, info in enumerate(rows.infos):
        assert info["x"] == step
        assert info["more"].tolist() == [step] * 10


@pytest.mark.compiled
def test_a_full_block_is_left_to_python() -> None:
    """Over several blocks: no row is written behind the end of one."""
    assert plain_steps.add_plain_step is not None
    box = warm_outbox()
    left = 0
    for step in range(2000):
        returned = (GOAL, float(step), False, False, {})
        if not plain_steps.add_plain_step(box, returned, None, None):
            left += 1
            box.add_step(GOAL, float(step), False, False, None)

    assert 2000 / 256 <= left < 50
    rows = box.window(2)
    assert rows is not None
    assert rows.rewards.tolist() == [float(step) for step in range(2000)]


def test_a_variable_leaves_all_steps_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAMBOREE_PURE", "1")

    assert compiled_core() is None
    assert plain_steps._chosen() is None


@pytest.mark.once
def test_without_a_compiler_it_is_installed_without_the_core(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "native", source / "native")
    (source / "jamboree_gym").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "jamboree_gym/__init__.py"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]

    hidden = {**os.environ, "PATH": str(Path(sys.executable).parent), "CC": "no-such-compiler"}
    done = subprocess.run(
        command, cwd=source, env=hidden, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert not list(source.rglob("*.so"))


PACKED: dict[str, Any] = {
    "an int": 3,
    "the largest int": 2**63 - 1,
    "too large an int": 2**63,
    "a flag": True,
    "a float": 0.5,
    "NaN": math.nan,
    "NumPy's int": np.int64(3),
    "NumPy's float": np.float64(0.5),
    "NumPy's flag": np.True_,
    "a small float": np.float32(0.5),
    "an array": GOAL,
    "its copy": GOAL.copy(),
    "an array of Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "of C": np.arange(6.0).reshape(2, 3),
    "of the other byte order": np.arange(6.0).reshape(2, 3).astype(">f8"),
    "an empty array": np.zeros((0, 3)),
    "strided": np.arange(12.0).reshape(2, 6)[:, ::2],
    "an array of no axis": np.array(0.5),
    "a subclass": np.arange(6.0).reshape(2, 3).view(np.recarray),
    "a text": "a",
    "nothing": None,
}


@pytest.mark.compiled
@pytest.mark.parametrize("known", PACKED.values(), ids=PACKED.keys())
def test_the_compiled_core_packs_what_python_packs(
    monkeypatch: pytest.MonkeyPatch, known: Any
) -> None:
    known_layout = layout_of(known)
    compiled = packing.packer(known_layout)
    monkeypatch.setattr(packing, "_core", None)
    by_python = packing.packer.__wrapped__(known_layout)

    for value in PACKED.values():
        assert outcome(compiled, value) == outcome(by_python, value)
    with pytest.raises(TypeError):
        compiled(known, known)  # type: ignore[call-arg]


def outcome(pack: packing.Pack, value: Any) -> Any:
    """The class of what it becomes, and its bytes; or what is raised."""
    try:
        packed = pack(value)
    except Exception as error:  # noqa: BLE001 - both have to raise the same
        return type(error)
    return type(packed), packed if isinstance(packed, bytes) else np.asarray(packed).tobytes()
