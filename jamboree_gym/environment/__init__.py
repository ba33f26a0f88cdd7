"""What is known of an environment: its origin, its arguments, its state, its spaces, its outcomes.

Imports `arrays`. The rooms that encode, record and replay import it.
"""
