"""Runs the supervisor as a single file, without importing the rest of the package.

The supervisor does not need NumPy, Gymnasium and Arrow, which `import jamboree_gym` loads. An empty
package takes its place here: the start takes a quarter of the time, and a third of the memory.
"""

import sys
import types
from pathlib import Path

if __name__ == "__main__":
    package = types.ModuleType("jamboree_gym")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["jamboree_gym"] = package

    from jamboree_gym.servers.supervisor import main

    main()
