"""How Redis is reached by URL: `client` for one server, `sentinels` where these name the primary.

`cluster` is for several primaries.

Imports: `errors`.
Imported by: `diagnosis`, `store`.
"""
