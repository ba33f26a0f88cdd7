"""A Redis or Valkey Cluster behind the same methods as one server: `link` is the way in.

`calls` says in which slots a command's keys are, `nodes` which server has a slot, and `round_trip`
sends commands to several servers and follows their redirections.

Imports: `errors`.
Imported by: `store`.
"""
