"""`DBHandler.save`, buffered and sync, and the README's loop, beside a bare round trip to Redis.

Targets: buffered <= 3 µs a save; sync <= 1.3 bare round trips; the README's loop (5 % of the saves
read the newest 250 records into a vaex frame first) <= 45 µs an iteration.

Run: .venv/bin/python benchmarks/save.py
"""

import argparse
import random
import sys
import time
import uuid
from pathlib import Path

from _pairs import in_turn, jamboree, machine, median, ratio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from sample_env import SampleEnvHandler, flip


def fresh_handler(jam) -> SampleEnvHandler:
    handler = SampleEnvHandler()
    handler.limit = 250
    handler.event = jam
    handler["episode"] = uuid.uuid4().hex
    return handler


def save_us(jam, count: int) -> float:
    """Microseconds a save, until all are in Redis."""
    handler = fresh_handler(jam)
    began = time.perf_counter()
    for value in range(count):
        handler.save({"value": value})
    took = time.perf_counter() - began
    jam.flush()
    return took / count * 1e6


def round_trip_us(jam, count: int) -> float:
    """Microseconds of a GET of a small key."""
    began = time.perf_counter()
    for _ in range(count):
        jam.redis.get("nothing")
    return (time.perf_counter() - began) / count * 1e6


def readme_loop_us(jam, count: int) -> float:
    """Microseconds an iteration of the README's loop."""
    handler = fresh_handler(jam)
    random.seed(0)
    began = time.perf_counter()
    for _ in range(count):
        v1 = random.randint(0, 12)
        handler.save({"value": v1})
        if flip(0.05):
            handler.save_update_recent({"value": v1})
    return (time.perf_counter() - began) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(machine())
    with jamboree() as buffered, jamboree(write="sync") as sync:
        taken = in_turn(
            rounds,
            round_trip=lambda: round_trip_us(sync, 2000),
            sync=lambda: save_us(sync, 2000),
            buffered=lambda: save_us(buffered, 20_000),
            readme=lambda: readme_loop_us(buffered, 10_000),
        )
    print(f"a bare round trip (GET)     {median(taken['round_trip']):8.1f} µs")
    print(f"save, write='sync'          {median(taken['sync']):8.1f} µs")
    print(f"  in bare round trips       {ratio(taken['sync'], taken['round_trip'])}; target 1.3")
    print(f"save, write='buffered'      {median(taken['buffered']):8.1f} µs; target 3")
    print(f"README loop, an iteration   {median(taken['readme']):8.1f} µs; target 45")


if __name__ == "__main__":
    main()
