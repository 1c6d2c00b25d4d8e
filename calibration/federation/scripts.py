"""Flower's commands: they are installed beside this Python."""

import sys
from pathlib import Path

SCRIPTS = Path(sys.executable).parent
