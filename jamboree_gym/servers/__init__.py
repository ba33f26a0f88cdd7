"""The embedded servers, for users without their own: one supervisor per home, and its clients.

Imports only `errors` and `store.urls`: the supervisor runs without NumPy and Gymnasium.
"""
