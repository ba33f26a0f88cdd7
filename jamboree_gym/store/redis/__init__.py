"""The hot log on Redis or Valkey: its store, its client and link, its scripts, its eviction.

Imports: `encoding`, `errors`, `keys`, `process_life`.
Imported by: `backup`, `connection`, `delivery`, `handlers`, `reading`, `recording`, `store`.
"""
