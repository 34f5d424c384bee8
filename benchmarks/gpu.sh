#!/usr/bin/env bash
# One loan of one device: measures, or trains a piece further. See docs/gpu.md, or: benchmarks/gpu.sh --help
set -euo pipefail
GPU_STARTED=$(date +%s.%N)
root=$(cd "$(dirname "$0")/.." && pwd)
export GPU_STARTED PYTHONUNBUFFERED=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
