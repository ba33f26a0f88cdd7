"""Runs the supervisor without the rest of the package, as a file of its own.

Importing `jamboree_gym` brings numpy, gymnasium and Arrow, which a supervisor has no use for: with
an empty package in their place it starts in a quarter of the time and takes a third of the memory.
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
