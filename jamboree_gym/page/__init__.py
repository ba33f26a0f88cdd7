"""The page in a browser: what a store has, live. It reads the store as users do, and changes little.

Imports: `arrays`, `encoding`, `errors`, `jamboree`, `reading`, `records`, `replay`, `runs`, `tables`.
Imported by: `cli`, `jamboree`.
"""
