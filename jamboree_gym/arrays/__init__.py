"""Values of spaces as arrays and bytes: their layout, how they are packed, where two differ.

Imports `errors` and `keys` only. Every other room may import it.
"""
