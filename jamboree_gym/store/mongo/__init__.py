"""The backup on MongoDB: its store, its client, its documents, and who reads logs out of them.

Imports `store.log`, `store.urls` and below. `store.read_through` and `backup` import it.
"""
