"""The embedded servers, for users without their own: one supervisor per home, and its clients.

Imports: `arrays`, `checked`, `errors`, `process_life`, `store`, `wording`.
Imported by: `backup`, `cli`, `connection`, `delivery`, `diagnosis`, `jamboree`, `journal`,
    `recording`, `store`.
"""
