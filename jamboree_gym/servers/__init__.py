"""The embedded servers, for a user who has none: a supervisor for each home, and its clients.

Imports `errors` and `store.urls` only, as the supervisor runs without NumPy and Gymnasium.
"""
