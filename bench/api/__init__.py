"""What Python calls: `bench.evaluate` and the others; the commands stand on the same functions."""
