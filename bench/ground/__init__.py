"""What every room stands on: TOML into dataclasses, whole files, locks, provenance, statistics, progress. No torch."""
