"""Which rungs are tried."""

import pytest

from calibration.ladder import LADDER, rungs_of, tried
from calibration.settings import Settings
from ifedicl_serve.errors import DataError


def names(rungs) -> list[str]:
    return [rung.name for rung in rungs]


def settings(**changes) -> Settings:
    return Settings(layers=(0,), **changes)


@pytest.mark.parametrize(
    ("fit", "readout", "expected"),
    [
        ("auto", "auto", names(LADDER)),
        ("auto", "none", ["zero-shot", "coefficients", "channels"]),
        ("auto", "bias", ["bias", "coefficients+bias", "channels+bias"]),
        ("bias", "auto", ["bias"]),
        ("head", "head", ["head"]),
        ("coefficients", "none", ["coefficients"]),
        ("channels", "auto", ["channels", "channels+bias", "channels+head"]),
    ],
)
def test_rungs_that_are_asked_for(fit, readout, expected):
    assert names(rungs_of(fit, readout)) == expected
    assert names(tried(settings(fit=fit, readout=readout), held_out=100)) == expected


def test_a_readout_cannot_be_another_one():
    with pytest.raises(DataError, match="fit 'bias' is a readout by itself, so readout 'head' con"):
        settings(fit="bias", readout="head")


@pytest.mark.parametrize(
    ("asked", "held_out", "expected"),
    [
        ({}, 31, ["zero-shot", "bias", "head"]),
        ({}, 0, ["zero-shot", "bias", "head"]),
        ({"fit": "channels"}, 1, ["channels", "channels+bias", "channels+head"]),
        ({"fit": "channels"}, 0, ["channels"]),
        ({"fit": "channels", "readout": "bias"}, 0, ["channels+bias"]),
        ({"fit": "head"}, 0, ["head"]),
        ({"epsilon": 8.0}, 0, ["coefficients"]),
        ({"epsilon": 8.0, "fit": "channels"}, 0, ["channels"]),
    ],
)
def test_few_rows_tell_few_rungs_apart(asked, held_out, expected):
    assert names(tried(settings(**asked), held_out)) == expected
