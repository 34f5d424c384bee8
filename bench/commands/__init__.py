"""Words on a command line. Each command loads torch only where it needs it."""
