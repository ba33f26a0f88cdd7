"""The hot log on Redis or Valkey: its store, its client and link, its scripts, its eviction.

Imports `store.log`, `store.urls` and below. All rooms that read or write logs import it.
"""
