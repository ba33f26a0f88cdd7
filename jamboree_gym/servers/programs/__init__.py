"""The programs that a supervisor runs, Valkey and the Mongo server, and their processes.

Imports: `arrays`, `errors`.
Imported by: `backup`, `diagnosis`, `servers`.
"""
