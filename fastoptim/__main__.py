"""``python -m fastoptim``: the same program as ``fastoptim``."""

import sys

from .cli import main

sys.exit(main())
