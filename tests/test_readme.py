"""The commands of the README and of `docs/`, run as they stand, in the order of the pages."""

import re
import shutil

from tests.documents import ROOT, placed, run
from tests.ifedicl_serve.factory import make_artifact


def test_ifedicl_commands_run_in_the_order_of_the_pages():
    commands = placed("commands")
    assert re.findall(r"bin/ifedicl (\w+)", "".join(block.commands for block in commands)) == [
        "calibrate", "inspect", "evaluate", "calibrate", "export",
        "partition", "federate", "classify",
    ]  # fmt: skip
    shutil.rmtree(ROOT / "demo" / "readme", ignore_errors=True)
    for block in commands:
        run(block)


def test_a_task_is_signed_and_checked_with_and_without_our_code(tmp_path):
    for name in ("banking", "support"):
        make_artifact(tmp_path / "tasks" / name)
    signed, verified = (run(block, tmp_path) for block in placed("signing"))
    assert "by trusted key" in signed
    assert verified == "Signature Verified Successfully\n"
