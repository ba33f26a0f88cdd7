"""Without the library that an integration needs, the error says how to get it."""

from __future__ import annotations

import pytest
from processes import run_python

NEEDS = {
    "datasets": "datasets",
    "hdf5": "h5py",
    "rllib": "ray",
    "telemetry": "opentelemetry",
    "torchrl": "tensordict",
}
COMMANDS = {"rllib": "pip install 'ray[rllib]' msgpack-numpy in an environment of its own"}
IMPORTS = """
import sys
from importlib import import_module
for name in ("torch", *sys.argv[2].split()):
    sys.modules[name] = None
for module in sys.argv[1].split():
    try:
        import_module("jamboree_gym.integrations." + module)
    except Exception as error:
        print(module, type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """By integration, what its import raises without the libraries that they need."""
    done = run_python(IMPORTS, " ".join(NEEDS), " ".join(NEEDS.values()))
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", NEEDS)
def test_the_error_holds_the_pip_command(said: dict[str, str], module: str) -> None:
    assert said[module].startswith("MissingExtra this needs")
    assert COMMANDS.get(module, f"pip install 'jamboree-gym[{module}]'") in said[module]


def test_what_is_written_by_itself_loads_no_other_library() -> None:
    modules = {"jamboree_gym.integrations.rlds", "jamboree_gym.integrations.lerobot"}

    loaded = set(
        run_python(f"import sys, {', '.join(modules)}; print(*sys.modules)").stdout.split()
    )

    assert modules <= loaded
    assert not loaded & {"datasets", "lerobot", "pandas", "rlds", "tensorflow", "torch"}
