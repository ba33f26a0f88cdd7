"""How long `import jamboree_gym` and its `Jamboree` take, beside `import gymnasium`.

They are imported in turn, each in a fresh interpreter, so that a machine that warms up or slows
down meets all alike. Target: `import jamboree_gym` takes at most twice as long as Gymnasium, and
`Jamboree`, which imports Gymnasium, redis-py and pyarrow, less than 0.3 s more.

Run: .venv/bin/python benchmarks/import_time.py
"""

import argparse
import statistics
import subprocess
import sys

from _pairs import machine

TIMED = "from time import perf_counter; t = perf_counter(); {}; print(perf_counter() - t)"
TARGET_S = 0.3


def import_s(statement: str) -> float:
    """Seconds that an import takes in an interpreter that has imported nothing yet."""
    command = [sys.executable, "-c", TIMED.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="pairs of imports (at least 7)")
    rounds = max(7, parser.parse_args().rounds)

    statements = (
        "import gymnasium",
        "import jamboree_gym",
        "from jamboree_gym import Jamboree",
    )
    for statement in statements:
        import_s(statement)  # the first import of all compiles, and reads from a cold disk
    taken = [tuple(map(import_s, statements)) for _ in range(rounds)]
    ratio = statistics.median(ours / theirs for theirs, ours, _ in taken)
    more = sorted(opener - theirs for theirs, _, opener in taken)

    print(machine())
    for column, statement in enumerate(statements):
        median_s = statistics.median(row[column] for row in taken)
        print(f"{statement:<33} {median_s * 1e3:7.1f} ms, median of {rounds}")
    print(f"import jamboree_gym: {ratio:.2f} times as long as gymnasium; target: at most 2")
    print(
        f"Jamboree: {statistics.median(more) * 1e3:.1f} ms more than gymnasium, from "
        f"{more[0] * 1e3:.1f} to {more[-1] * 1e3:.1f} ms; target: < {TARGET_S * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
