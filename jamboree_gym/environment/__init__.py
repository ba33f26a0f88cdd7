"""Facts about an environment: its origin, arguments, state, spaces and outcomes.

Imports `arrays`. The rooms that encode, record and replay import it.
"""
