"""What waits for its delivery, in files of the process: a kill with -9 loses none of it.

Imports: `arrays`, `encoding`, `errors`, `servers`.
Imported by: `connection`, `delivery`, `diagnosis`, `handlers`, `reading`, `recording`.
"""
