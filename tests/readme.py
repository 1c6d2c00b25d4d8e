"""The README's blocks, for the tests that run them as they stand."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(command: str) -> str:
    """Run a block in the repository's root; fails the test with its output."""
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout
