"""Where logs lie: `redis` is the hot log, `mongo` the backup, `read_through` one behind the other.

Imports `encoding` and below. `delivery`, `handlers`, `reading` and `backup` import it.
"""
