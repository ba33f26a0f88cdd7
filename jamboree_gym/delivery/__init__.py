"""From a recorder to Redis: outboxes, the writer thread, its pacing, and the lease of a process.

Imports `store` and below. `connection` is the only door to it for the rooms above.
"""
