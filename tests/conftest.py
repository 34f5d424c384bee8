"""One thread a test process: same bits on every machine, and no fight for cores between processes."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
