"""The bytes of the store and of rows in memory: batches, heads, schemas, infos, summaries. No I/O.

Imports: `arrays`, `compiled`, `environment`, `errors`, `records`.
Imported by: `backup`, `connection`, `delivery`, `handlers`, `integrations`, `journal`,
    `multi_agent`, `page`, `reading`, `recording`, `replay`, `runs`, `store`, `tables`.
"""
