"""The backup on MongoDB: its store, client, documents, and readers of single logs.

Imports: `encoding`, `errors`, `keys`.
Imported by: `backup`, `connection`, `delivery`, `reading`, `store`.
"""
