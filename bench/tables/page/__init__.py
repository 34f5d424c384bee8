"""One self-contained page of tables, charts, pictures and the records behind every number. No torch, no network."""
