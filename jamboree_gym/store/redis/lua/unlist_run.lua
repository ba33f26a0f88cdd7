#!lua flags=allow-oom
-- include: left_of_run
-- Takes a run out of the runs of a bucket, if nothing of it is left there.
--
-- KEYS: runs, summaries, then the run's logs of sessions, metrics and checkpoints in this bucket.
-- ARGV: run.
-- Answer: 1 where it was listed and is not any more, else 0.

return unlist_if_empty(KEYS[1], ARGV[1], KEYS[2], 3)
