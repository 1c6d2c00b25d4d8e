"""A served task as a scikit-learn classifier of texts. Needs the extra `sklearn`."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ifedicl_serve.client.client import BATCH_SIZE, MAX_RETRIES, TIMEOUT_S, Client
from ifedicl_serve.errors import DataError
from ifedicl_serve.schema import Classification


class TaskClassifier(ClassifierMixin, BaseEstimator):
    """Classifies texts by a task of the server at `base_url`; X is a sequence of strings.

    Parameters are those of `Client` and `Client.classify`. Leave `api_key` None and set
    IFEDICL_API_KEY: scikit-learn prints, copies and pickles parameters.

    After `fit`, `classes_` are the task's labels, sorted as scikit-learn's metrics expect. What
    numbers labels before it fits (`cross_val_predict` of probabilities, temperature calibration)
    takes `sklearn.frozen.FrozenEstimator(classifier.fit())`: nothing is trained anyway.
    """

    def __init__(
        self,
        task: str,
        base_url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        batch_size: int = BATCH_SIZE,
        truncate: bool = False,
        adapted: bool = True,
    ) -> None:
        self.task = task
        self.base_url = base_url
        self.api_key = api_key
        self.timeout = timeout
        self.max_retries = max_retries
        self.batch_size = batch_size
        self.truncate = truncate
        self.adapted = adapted

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Learn the task's labels from the server; nothing is trained, so X is not looked at.

        Raises DataError if `y` has labels that the task has not, APIError for the server's errors.
        """
        with self._client() as client:
            card = client.task(self.task)
        self.classes_ = np.sort(np.array(card.labels))
        if y is not None:
            self._refuse_unknown(np.asarray(y).ravel().tolist(), card.labels)
        return self

    def predict(self, X: Sequence[str]) -> npt.NDArray[np.str_]:
        """The best label of each text, [texts]."""
        check_is_fitted(self)
        labels = [result.label for result in self._classify(X, top_k=1)]
        self._refuse_replaced(set(labels) - set(self.classes_.tolist()))
        return np.array(labels, dtype=self.classes_.dtype)

    def predict_proba(self, X: Sequence[str]) -> npt.NDArray[np.float64]:
        """Probabilities [texts, classes], in the order of `classes_`; every row sums to 1."""
        check_is_fitted(self)
        labels = self.classes_.tolist()
        rows = [
            {score.label: score.score for score in result.scores}
            for result in self._classify(X, top_k=None)
        ]
        for row in rows:
            self._refuse_replaced(row.keys() ^ set(labels))
        proba = np.array([[row[label] for label in labels] for row in rows])
        proba = proba.reshape(-1, len(labels))
        # The engine's sum to 1 as float32 does; scikit-learn warns of less than float64.
        return proba / proba.sum(axis=1, keepdims=True)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.target_tags.required = False
        return tags

    def _refuse_unknown(self, seen: list[Any], labels: list[str]) -> None:
        unknown = sorted(map(repr, set(seen) - set(labels)))
        if unknown:
            raise DataError(
                f"y has labels {', '.join(unknown)}, task {self.task!r} has "
                f"{', '.join(map(repr, labels))}; rename them, or, where scikit-learn itself has "
                "numbered them, give it FrozenEstimator(classifier.fit())"
            )

    def _refuse_replaced(self, changed: set[str]) -> None:
        if changed:
            raise DataError(
                f"task {self.task!r} had labels {self.classes_.tolist()}, now {sorted(changed)} "
                "came or went; it was replaced: fit again"
            )

    def _client(self) -> Client:
        return Client(self.base_url, self.api_key, self.timeout, self.max_retries, self.batch_size)

    def _classify(self, X: Sequence[str], top_k: int | None) -> list[Classification]:
        texts = _texts(X)
        with self._client() as client:
            return client.classify(self.task, texts, top_k, self.truncate, self.adapted)


def _texts(X: Any) -> list[str]:
    """The texts of X. Iterated over, a string would be its characters, a mapping its keys, and a
    table the names of its columns."""
    shape = getattr(X, "shape", None)
    if isinstance(X, str | Mapping) or (shape is not None and len(shape) != 1):
        of_shape = "" if shape is None else f" of shape {tuple(shape)}"
        raise DataError(
            f"X is a {type(X).__name__}{of_shape}, expected a list, an array or one column of "
            "texts; give [text] for a single one, table['text'] for a column"
        )
    texts = list(X)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(
                f"row {row} of X is a {type(text).__name__}, expected a string; give a list, an "
                "array or one column of texts"
            )
    return texts
