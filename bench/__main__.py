"""`python -m bench` is the command `bench`."""

from __future__ import annotations

import sys

from bench.commands.cli import main

sys.exit(main())
