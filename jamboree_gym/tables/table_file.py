"""Writes columns of several episodes into one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from jamboree_gym.tables.arrow_table import Columns, Inexact, TablePart, conform, with_rows

__all__ = ["Spool", "write_arrow"]


class Spool:
    """Parts of a table on disk: the set of all columns is known only after the last part.

    The temporary files, one for each schema, lie next to `path`, the result's.

    Attributes:
        columns: The columns of all parts.
        nbytes: Size of all parts in memory, bytes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writers: dict[pa.Schema, Any] = {}
        self._files = ExitStack()
        self._paths: list[Path] = []
        self._order: list[tuple[int, int]] = []  # file and position of each batch
        self.columns = Columns()
        self.nbytes = 0

    def add(self, table_part: TablePart) -> None:
        """Append a part."""
        schema = table_part.table.schema
        if schema not in self._writers:
            self._paths.append(self._path.with_name(f"{self._path.name}.{len(self._paths)}.part"))
            sink = self._files.enter_context(pa.OSFile(str(self._paths[-1]), "wb"))
            self._writers[schema] = [len(self._writers), 0, pa.ipc.new_file(sink, schema)]
        self.columns.see(schema, table_part)
        self.nbytes += table_part.table.nbytes
        place = self._writers[schema]
        for batch in table_part.table.combine_chunks().to_batches():
            place[2].write_batch(batch)
            self._order.append((place[0], place[1]))
            place[1] += 1

    def only_file(self) -> Path | None:
        """The one file, complete, if all parts have the same columns; else None."""
        self._close()
        is_whole = len(self._paths) == 1 and not self.columns.unfit & self.columns.kinds.keys()
        return self._paths[0] if is_whole else None

    def write(self, opened: Callable[[pa.Schema], AbstractContextManager[Any]]) -> None:
        """Write all parts, each with the columns of all.

        `opened` opens a file with these columns (a new one at each call), which has `write_table`.

        Raises:
            ColumnConflict: No single column can hold the values of two episodes; names both.
        """
        self._close()
        with ExitStack() as maps:
            sources = [maps.enter_context(pa.memory_map(str(path))) for path in self._paths]
            readers = [pa.ipc.open_file(source) for source in sources]
            while True:
                schema = self.columns.schema()
                try:
                    with opened(schema) as writer:
                        for table in self._tables(readers, schema):
                            writer.write_table(table)
                    return
                except Inexact as error:
                    self.columns.refuse(str(error))

    def _tables(self, readers: Sequence[Any], schema: pa.Schema) -> Iterator[pa.Table]:
        for file, place in self._order:
            yield conform(pa.Table.from_batches([readers[file].get_batch(place)]), schema)

    def _close(self) -> None:
        for _, _, writer in self._writers.values():
            writer.close()
        self._writers.clear()
        self._files.close()

    def discard(self) -> None:
        """Remove the temporary files."""
        self._files.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


def write_arrow(table_parts: Iterable[TablePart], path: Path) -> None:
    """Write an Arrow IPC file, with at most one part in memory.

    Raises:
        ColumnConflict: No single column can hold the values of two episodes; names both. No file is
            written then.
    """
    spool, whole = Spool(path), path.with_name(f"{path.name}.whole.part")
    try:
        for table_part in with_rows(table_parts):
            spool.add(table_part)
        only = spool.only_file()
        if only is None:
            spool.write(lambda schema: _arrow_file(whole, schema))
        os.replace(only or whole, path)
    finally:
        spool.discard()
        whole.unlink(missing_ok=True)


@contextmanager
def _arrow_file(path: Path, schema: pa.Schema) -> Iterator[Any]:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        yield writer
