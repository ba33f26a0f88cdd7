"""A run: its sessions, its metrics, its checkpoints.

Imports `reading` and below. `integrations.sb3` and `jamboree` import it.
"""
