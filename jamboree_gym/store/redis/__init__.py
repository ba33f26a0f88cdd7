"""The hot log on Redis or Valkey: `store` and its parts, each over one `link`.

Imports: `encoding`, `errors`, `keys`, `process_life`.
Imported by: `backup`, `connection`, `diagnosis`, `store`.
"""
