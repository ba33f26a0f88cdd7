"""Compiled from native/plain_step.c, where there was a compiler."""

from collections.abc import Callable
from typing import Any

from jamboree_gym.delivery.row_writer import RowWriter

def writer_of(row_writer: type[Any], /) -> Callable[[RowWriter, object], bool]: ...
