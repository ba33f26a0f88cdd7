"""Starts the processes of Ray, which scripts use, too: they find its address in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray


@contextmanager
def ray_processes(folder: Path, redis_url: str) -> Iterator[None]:
    """Ray's processes have the variables that Ray was started with, not those of the script."""
    before = dict(os.environ)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"JAMBOREE_REDIS_URL": redis_url, "JAMBOREE_BACKUP": "0"}
    os.environ["RAY_ADDRESS"] = start_ray(folder)
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


def start_ray(folder: Path) -> str:
    """Start Ray; its address. Ray gives its processes 30 s: on a busy machine, that is little."""
    for attempts_left in reversed(range(5)):
        try:
            context = ray.init(
                "local",
                num_cpus=4,
                include_dashboard=False,
                object_store_memory=100 << 20,
                _temp_dir=str(folder),
            )
            return str(context.address_info["address"])
        except Exception:
            ray.shutdown()
            if not attempts_left:
                raise
    raise AssertionError
