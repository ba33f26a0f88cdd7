"""Without the library that an integration needs, the error says how to get it."""

from __future__ import annotations

import pytest
from processes import run_python


@pytest.mark.parametrize(
    ("module", "needs"), [("datasets", "datasets"), ("hdf5", "h5py"), ("torchrl", "tensordict")]
)
def test_the_error_holds_the_pip_command(module: str, needs: str) -> None:
    code = f"import sys; sys.modules['{needs}'] = sys.modules['torch'] = None\n"

    done = run_python(code + f"import jamboree_gym.integrations.{module}")

    assert "MissingExtra: this needs" in done.stderr
    assert f"pip install 'jamboree-gym[{module}]'" in done.stderr


@pytest.mark.parametrize("module", ["rlds", "lerobot"])
def test_what_is_written_by_itself_loads_no_other_library(module: str) -> None:
    code = f"import sys, jamboree_gym.integrations.{module}; print(*sys.modules)"

    loaded = set(run_python(code).stdout.split())

    assert f"jamboree_gym.integrations.{module}" in loaded
    assert not loaded & {"datasets", "lerobot", "pandas", "rlds", "tensorflow", "torch"}
