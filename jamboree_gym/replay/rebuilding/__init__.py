"""Making the environment of an episode again, and bringing it to where it stood.

Imported by the other rooms of `replay`.
"""
