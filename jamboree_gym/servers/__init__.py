"""The embedded servers, for users without their own: one supervisor per home, and its clients.

Imports: `arrays`, `checked`, `errors`, `process_life`, `store`.
Imported by: `backup`, `cli`, `connection`, `delivery`, `diagnosis`, `journal`, `recording`,
    `store`.
"""
