"""What `benchmarks/gpu.sh` runs: measurements and trainings that fit into short loans of a device without a network."""
