"""Which rungs are tried under another rule than FedAvg, and with privacy."""

import dataclasses

import pytest

from calibration.ladder import PAPERS, tried
from calibration.settings import Settings
from ifedicl_serve.errors import DataError
from ifedicl_serve.fitting.rungs import Rung

SETTINGS = Settings(layers=(0,))


@pytest.mark.parametrize("name", ["median", "multi_krum"])
def test_a_rule_that_outvotes_tries_no_readout(name) -> None:
    """They are sums over clients, in which one says as much as it likes."""
    settings = dataclasses.replace(SETTINGS, aggregation=name)
    expected = [Rung("none", "none"), Rung("coefficients", "none"), Rung("channels", "none")]
    assert list(tried(settings, 1000)) == expected
    assert tried(settings, 10) == (Rung("coefficients", "none"),)
    channels = dataclasses.replace(settings, fit="channels")
    assert tried(channels, 0) == (Rung("channels", "none"),)


@pytest.mark.parametrize("asked", [{"fit": "head"}, {"readout": "bias"}])
def test_a_readout_that_was_asked_for_is_refused_with_the_reason(asked) -> None:
    kind = asked.get("fit") or asked["readout"]
    with pytest.raises(DataError, match=f"{kind!r} is fitted from sums .* median outvotes nobody"):
        dataclasses.replace(SETTINGS, aggregation="median", **asked)
    with pytest.raises(DataError, match=f"{kind!r} is fitted from sums .* median outvotes nobody"):
        dataclasses.replace(SETTINGS, aggregation="median", epsilon=8.0, **asked)


@pytest.mark.parametrize(
    ("asked", "rung"),
    [
        ({}, PAPERS),
        ({"readout": "none"}, PAPERS),
        ({"fit": "coefficients"}, PAPERS),
        ({"fit": "channels"}, Rung("channels", "none")),
        ({"fit": "bias"}, Rung("none", "bias")),
        ({"fit": "head"}, Rung("none", "head")),
        ({"readout": "head"}, Rung("none", "head")),
        ({"fit": "coefficients", "readout": "bias"}, Rung("coefficients", "bias")),
        ({"fit": "channels", "readout": "head"}, Rung("channels", "head")),
    ],
)
def test_private_clients_fit_one_rung_the_papers_or_what_was_asked_for(asked, rung) -> None:
    """They tell nothing to choose by, and each would spend of their budget."""
    private = dataclasses.replace(SETTINGS, epsilon=8.0, **asked)
    assert tried(private, 0) == tried(private, 1000) == (rung,)
