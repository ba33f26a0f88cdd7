"""Stores of logs: `redis` is the hot log, `mongo` and `folder` are backups.

`backups` is what these share; `read_through` puts one behind Redis.

Imports: `arrays`, `encoding`, `errors`, `keys`, `process_life`, `servers`.
Imported by: `backup`, `cli`, `connection`, `delivery`, `diagnosis`, `handlers`, `integrations`,
    `jamboree`, `page`, `reading`, `recording`, `servers`.
"""
