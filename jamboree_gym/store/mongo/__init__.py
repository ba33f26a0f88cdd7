"""The backup on MongoDB: `store`, its link and writer, its documents.

Imports: `encoding`, `errors`, `keys`.
Imported by: `jamboree`, `store`.
"""
