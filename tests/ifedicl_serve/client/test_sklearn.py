"""TaskClassifier where scikit-learn puts a classifier: scores, pipelines, calibration, copies."""

import pickle
import re

import numpy as np
import pyarrow
import pytest
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import classification_report, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from ifedicl_serve.client import Client, NotFoundError, UnprocessableEntityError
from ifedicl_serve.client.sklearn import TaskClassifier
from ifedicl_serve.errors import DataError
from tests.ifedicl_serve.client.conftest import Script, answer, serving

LABELS = ["business", "business of the world", "world", "world news", "world sports"]
TEXTS = [f"film number {number} was good" for number in range(60)]
Y = [LABELS[number % len(LABELS)] for number in range(60)]
# What scikit-learn checks of any estimator. `check_estimator` itself makes one check of a
# classifier of texts and gives up, as all others fit and predict matrices of numbers; of these,
# the ones here never do. `check_parameters_default_constructible` is left out: `task` has no
# default.
CHECKS = [
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_mixin_order,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
]


@pytest.fixture
def classifier(url):
    return TaskClassifier("topics", url)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_scikit_learns_own_checks_pass(check):
    check("TaskClassifier", TaskClassifier("topics"))


def test_it_is_a_classifier(classifier):
    assert is_classifier(classifier)


def test_probabilities_are_the_servers_in_the_order_of_classes(classifier, url):
    proba = classifier.fit().predict_proba(TEXTS)
    assert classifier.classes_.tolist() == sorted(LABELS)
    assert proba.shape == (60, 5)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-15)
    with Client(url) as client:
        for row, result in zip(proba, client.classify("topics", TEXTS), strict=True):
            served = {score.label: score.score for score in result.scores}
            assert dict(zip(classifier.classes_, row, strict=True)) == pytest.approx(served)


def test_predictions_are_the_most_probable_classes(classifier):
    classifier.fit(TEXTS, Y)
    best = classifier.predict_proba(TEXTS).argmax(axis=1)
    assert (classifier.predict(TEXTS) == classifier.classes_[best]).all()


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda texts: np.array(texts, object)])
def test_texts_may_be_any_sequence_of_strings(classifier, make):
    expected = classifier.fit().predict(TEXTS)
    assert (classifier.predict(make(TEXTS)) == expected).all()


def test_no_texts_have_no_predictions(classifier):
    assert classifier.fit().predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, 5)


@pytest.mark.parametrize("X", [[1, 2], [None], b"ab", [["a"], ["b"]]])
def test_what_is_no_text_is_refused(classifier, X):
    with pytest.raises(DataError, match="row 0 of X is a .*, expected a string"):
        classifier.fit().predict(X)


@pytest.mark.parametrize(
    ("X", "seen"),
    [
        ("I forgot", "str"),
        (np.str_("I forgot"), "str_ of shape ()"),
        (np.array("I forgot"), "ndarray of shape ()"),
        ({"text": ["a", "b"]}, "dict"),
        (pyarrow.table({"text": ["a", "b"]}), "Table of shape (2, 1)"),
        (np.array([["a"], ["b"]]), "ndarray of shape (2, 1)"),
    ],
)
@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_what_would_be_other_texts_row_by_row_is_refused(classifier, method, X, seen):
    with pytest.raises(DataError, match=re.escape(f"X is a {seen}, expected a list, an array or")):
        getattr(classifier.fit(), method)(X)


def test_one_must_fit_first(classifier):
    for method in (classifier.predict, classifier.predict_proba):
        with pytest.raises(NotFittedError):
            method(TEXTS)


@pytest.mark.parametrize("y", [["world", "film"], np.array(["film"]), [0, 1], [None]])
def test_labels_that_the_task_has_not_are_refused(classifier, y):
    with pytest.raises(DataError, match="y has labels .*, task 'topics' has 'world news'"):
        classifier.fit(TEXTS, y)


def test_a_fold_may_lack_a_label(classifier):
    assert classifier.fit(TEXTS[:1], Y[:1]).classes_.tolist() == sorted(LABELS)


def test_cross_validation(classifier):
    expected = np.mean(classifier.fit().predict(TEXTS) == Y)
    scores = cross_val_score(classifier, TEXTS, Y, cv=3)
    assert scores.mean() == pytest.approx(expected)
    fitted = FrozenEstimator(classifier.fit())
    proba = cross_val_predict(fitted, TEXTS, Y, cv=3, method="predict_proba")
    np.testing.assert_array_equal(proba, classifier.predict_proba(TEXTS))
    losses = -cross_val_score(classifier, TEXTS, Y, cv=3, scoring="neg_log_loss")
    assert losses.mean() == pytest.approx(log_loss(Y, proba))


def test_a_pipeline_with_a_step_of_text(classifier):
    pipeline = make_pipeline(FunctionTransformer(lambda X: [x.upper() for x in X]), classifier)
    predicted = pipeline.fit(TEXTS, Y).predict(TEXTS)
    assert (predicted == classifier.predict([text.upper() for text in TEXTS])).all()
    assert "world sports" in classification_report(Y, predicted, zero_division=0)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_probabilities_can_be_calibrated(classifier, method):
    calibrated = CalibratedClassifierCV(classifier, method=method, cv=3).fit(TEXTS, Y)
    assert calibrated.classes_.tolist() == sorted(LABELS)
    np.testing.assert_allclose(calibrated.predict_proba(TEXTS).sum(axis=1), 1, atol=1e-6)


def test_a_temperature_is_fitted_to_the_frozen_classifier(classifier):
    frozen = FrozenEstimator(classifier.fit())
    calibrated = CalibratedClassifierCV(frozen, method="temperature").fit(TEXTS, Y)
    before, after = (log_loss(Y, c.predict_proba(TEXTS)) for c in (classifier, calibrated))
    assert after < before
    assert (calibrated.predict(TEXTS) == classifier.predict(TEXTS)).all()


def test_labels_numbered_by_scikit_learn_are_refused_with_the_way_out(classifier):
    with pytest.raises(DataError, match="y has labels 0, 1, .*FrozenEstimator"):
        cross_val_predict(classifier, TEXTS, Y, cv=3, method="predict_proba")


def test_tasks_can_be_compared_in_a_grid(url):
    grid = GridSearchCV(TaskClassifier("topics", url), {"truncate": [False, True]}, cv=2)
    assert grid.fit(TEXTS, Y).best_params_ == {"truncate": False}


def test_copies_have_the_same_parameters_and_pickles_predict(classifier):
    classifier.set_params(batch_size=7).fit()
    assert clone(classifier).get_params() == classifier.get_params()
    restored = pickle.loads(pickle.dumps(classifier))
    assert (restored.predict(TEXTS) == classifier.predict(TEXTS)).all()


def test_parameters_reach_the_server():
    script = Script(answer())
    with serving(script.app) as url:
        classifier = TaskClassifier("sst2", url, api_key="key", truncate=True, adapted=False)
        classifier.classes_ = np.array(["good"])
        classifier.predict_proba(["good"])
    body = {"task": "sst2", "input": ["good"], "truncate": True, "adapted": False}
    assert script.bodies == [body]
    assert script.headers[0]["authorization"] == "Bearer key"


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_a_task_replaced_by_one_with_other_labels_is_noticed(classifier, method):
    """Also if they are longer than numpy would keep of them."""
    classifier.fit()
    classifier.classes_ = np.array(["sport", "w"])
    with pytest.raises(DataError, match=r"had labels \['sport', 'w'\], now .*: fit again"):
        getattr(classifier, method)(TEXTS)


def test_the_servers_errors_are_raised(classifier, url):
    with pytest.raises(UnprocessableEntityError):
        classifier.fit().predict(["word " * 200])
    with pytest.raises(NotFoundError):
        TaskClassifier("nobody", url).fit()
