"""The life of a run: identity and folder, length, checkpoints, resume, stop requests, table, summary, exit code."""
