"""Stores of logs: `redis` is the hot log, `mongo` the backup, `read_through` combines both.

Imports `encoding` and below. `delivery`, `handlers`, `reading` and `backup` import it.
"""
