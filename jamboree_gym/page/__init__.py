"""The page in a browser: runs and episodes of a store, live. Of a store it changes only flags.

Imports: `arrays`, `connection`, `encoding`, `errors`, `handlers`, `jamboree`, `reading`, `records`,
    `replay`, `runs`, `store`, `tables`.
Imported by: `jamboree`.
"""
