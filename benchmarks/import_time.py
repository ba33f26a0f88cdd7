"""How much longer `import jamboree_gym` takes than `import gymnasium` alone.

The two are imported in turn, each in a fresh interpreter, so that a machine that warms up or slows
down meets both alike. Target: less than 0.3 s more.

Run: .venv/bin/python benchmarks/import_time.py
"""

import argparse
import statistics
import subprocess
import sys

from _pairs import machine

TIMED = "from time import perf_counter; t = perf_counter(); import {}; print(perf_counter() - t)"
TARGET_S = 0.3


def import_s(module: str) -> float:
    """Seconds that importing `module` takes in an interpreter that has imported nothing yet."""
    command = [sys.executable, "-c", TIMED.format(module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="pairs of imports (at least 7)")
    rounds = max(7, parser.parse_args().rounds)

    pair = ("gymnasium", "jamboree_gym")
    for module in pair:
        import_s(module)  # the first import of all compiles, and reads from a cold disk
    taken = [tuple(import_s(module) for module in pair) for _ in range(rounds)]
    more = sorted(ours - theirs for theirs, ours in taken)

    print(machine())
    for column, module in enumerate(pair):
        print(
            f"import {module:<13} {statistics.median(row[column] for row in taken) * 1e3:7.1f} ms"
        )
    print(f"more than gymnasium  {statistics.median(more) * 1e3:7.1f} ms, median of {rounds} pairs")
    print(
        f"  from {more[0] * 1e3:.1f} to {more[-1] * 1e3:.1f} ms; target: < {TARGET_S * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
