"""Rebuilds the environment of an episode, and brings it into a recorded state.

Imports: `arrays`, `encoding`, `environment`, `errors`, `handlers`, `reading`, `records`,
    `wrappers`.
Imported by: `multi_agent`, `replay`.
"""
