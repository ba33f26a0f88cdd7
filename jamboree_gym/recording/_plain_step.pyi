"""Compiled from native/plain_step.c, where there was a compiler."""

from collections.abc import Callable

from jamboree_gym.delivery.row_writer import RowWriter

def writer_of(row_writer: type[RowWriter], /) -> Callable[[RowWriter, object], bool]: ...
