"""Which episodes: by their summaries, by names that users type, and in which order.

Imports: `arrays`.
Imported by: `backup`.
"""
