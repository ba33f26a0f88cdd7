"""The backup on MongoDB: `store`, its link and writer, its documents, and a reader of logs.

Imports: `encoding`, `errors`, `keys`.
Imported by: `backup`, `connection`, `delivery`, `diagnosis`, `reading`, `store`.
"""
