"""Recording episodes: the handler of an episode, what recorders share, the import of arrays.

Imports `handlers` and below. `wrappers`, `integrations` and `replay` import it.
"""
