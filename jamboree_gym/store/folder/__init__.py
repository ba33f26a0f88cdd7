"""The backup in a folder: `store`, the `index` of what is alive, and the segments with the bytes.

Imports: `encoding`, `errors`, `keys`.
Imported by: `store`.
"""
