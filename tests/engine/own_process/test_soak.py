"""A short soak (bench/soak.py, twenty minutes there): good and bad callers at once while tasks
come, change and go. Nothing is lost, mixed up or left behind; only the long one tells a leak."""

from bench.soak import SLOTS, run


def test_nothing_is_lost_mixed_up_or_left_behind(models):
    record = run(models["llama"], 0.3, "--enforce-eager")
    assert record["wrong"] == {}
    headline = record["headline"]
    assert headline["requests"] > 100
    assert headline["changes of tasks"] > 5
    assert headline["requests that the server did not count"] == 0
    assert headline["texts left in flight"] == 0
    assert headline["requests left in the engine"] == 0
    assert headline["tasks in slots"] <= SLOTS
