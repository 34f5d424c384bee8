"""The bench: data, models, judge, records, tables and the commands. Importing it loads nothing."""
