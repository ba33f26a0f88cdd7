"""The backup on MongoDB: its store, client, documents, and readers of single logs.

Imports `store.log`, `store.urls` and below. `store.read_through` and `backup` import it.
"""
