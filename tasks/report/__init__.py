"""What `python -m tasks.compare` shows: which runs may be ranked together, tables of them, and the report."""
