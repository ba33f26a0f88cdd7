"""Stores of logs: `redis` is the hot log, `mongo` the backup, `read_through` combines both.

Imports: `arrays`, `encoding`, `errors`, `keys`, `process_life`, `servers`.
Imported by: `backup`, `cli`, `connection`, `delivery`, `diagnosis`, `handlers`, `reading`,
    `recording`, `servers`.
"""
