"""The file of a federation's job, which tells by its absence that the artifact is there."""

from pathlib import Path

import pytest

from calibration.federation.coordinator.app import FederationJob


@pytest.mark.parametrize("left", [[], [".calibration.safetensors.1f"]], ids=["clean", "killed"])
def test_a_job_that_is_done_goes_whatever_lies_beside_it(tmp_path: Path, left: list[str]) -> None:
    folder = tmp_path / ".task.state"
    folder.mkdir()
    for name in ("federation.json", *left):
        (folder / name).write_text("")
    FederationJob.remove(folder / "federation.json")
    assert [path.name for path in tmp_path.rglob("*")] == ([folder.name, *left] if left else [])
