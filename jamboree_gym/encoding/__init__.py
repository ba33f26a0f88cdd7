"""The bytes of the store: batches of rows, heads, schemas, infos, summaries. No I/O.

Imports `arrays`, `environment` and `records`. Stores and readers import it.
"""
