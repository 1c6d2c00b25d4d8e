"""The README's pictures of the page, of a real server with the demo's task.

python -m tests.page.screenshots [FOLDER]        writes page-light.png and page-dark.png (docs/)
"""

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.documents import ROOT
from tests.page.conftest import chromium
from tests.page.pages import classify
from tests.processes import ifedicl_serve

MODEL = ROOT / "examples" / "base_model"
TRAIN = ROOT / "examples" / "banking" / "train.jsonl"
QUESTIONS = (
    "My new card has still not arrived",
    "I forgot my PIN",
    "How old must my son be to open an account?",
)
WINDOW = {"width": 1280, "height": 1000}


@contextmanager
def banking_server(folder: Path) -> Iterator[str]:
    """Calibrate the banking task into `folder` and serve it."""
    command = [
        str(Path(sys.executable).parent / "ifedicl"), "calibrate", "--model", str(MODEL),
        "--data", str(TRAIN), "--template", r"Text: {text}\nTopic:",
        "--out", str(folder / "tasks" / "banking"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    with ifedicl_serve(MODEL, folder / "tasks", folder / "server.log", "--enforce-eager") as url:
        yield url


def take(url: str, folder: Path) -> None:
    """One picture in each colour scheme: some questions, adapted beside unadapted."""
    with chromium() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport=WINDOW, reduced_motion="reduce")
            page.goto(url)
            page.get_by_role("radio", name="One per line").check()
            page.get_by_label("Compare with unadapted").check()
            classify(page, "\n".join(QUESTIONS))
            picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
            path = folder / f"page-{scheme}.png"
            picture.convert("RGB").quantize(256).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size} bytes")
            page.close()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        with banking_server(Path(scratch)) as server:
            take(server, target)
