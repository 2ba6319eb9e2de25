"""`python -m kernel` is the command `gateway`."""

from __future__ import annotations

import sys

from kernel.cli import main

sys.exit(main())
