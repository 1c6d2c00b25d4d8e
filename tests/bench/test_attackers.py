"""The attackers on made-up activations whose secrets are known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bench.federation.attackers import (
    Facts,
    Inversion,
    Membership,
    draw_client,
    draw_strangers,
    majority_accuracy,
    membership_auc,
    top_words,
    word_auc,
)

LABELS = np.repeat([0, 1, 2], 40)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_clients_are_different_rows_and_strangers_match_their_labels(generator) -> None:
    mixes = set()
    for _ in range(50):
        members = draw_client(LABELS, 20, generator)
        strangers = draw_strangers(LABELS, members, generator)
        assert len(set(members) | set(strangers)) == 40
        counts = np.bincount(LABELS[members], minlength=3)
        assert counts.tolist() == np.bincount(LABELS[strangers], minlength=3).tolist()
        mixes.add(tuple(counts))
    assert len(mixes) > 20


def test_inversion_reads_facts_that_are_linear_in_the_vector(generator) -> None:
    facts = Facts(generator.random((80, 3)), generator.random((80, 5)))
    vectors = np.hstack([facts.labels, facts.words]) @ generator.normal(size=(8, 30))
    inversion = Inversion(vectors[:60], Facts(facts.labels[:60], facts.words[:60]))
    found = inversion.recovered(vectors[60:])
    assert found.labels == pytest.approx(facts.labels[60:], abs=0.01)
    assert found.words == pytest.approx(facts.words[60:], abs=0.01)
    assert inversion.guessed(20).words[7] == pytest.approx(facts.words[:60].mean(axis=0))


def test_membership_is_the_ratio_of_two_normal_densities(generator) -> None:
    """Against scipy, with the covariance the attacker settled on."""
    from scipy.stats import multivariate_normal

    rows = generator.normal(size=(30, 6)) @ generator.normal(size=(6, 6))
    vector, candidates = generator.normal(size=6), generator.normal(size=(3, 6))
    attacker = Membership(rows, candidates)
    rest = np.eye(6) - attacker.basis.T @ attacker.basis
    covariance = attacker.basis.T * attacker.variances @ attacker.basis + attacker.rest * rest
    spread = covariance / 4 + 0.3**2 * np.eye(6)
    expected = [
        multivariate_normal(attacker.mean + (row - attacker.mean) / 4, spread).logpdf(vector)
        - multivariate_normal(attacker.mean, spread).logpdf(vector)
        for row in candidates
    ]
    found = attacker.scores(vector, np.arange(3), 4, 0.3)
    assert found == pytest.approx(np.array(expected))


def test_members_are_found_and_noise_hides_them(generator) -> None:
    public, private = generator.normal(size=(2, 200, 100))
    attacker = Membership(public, private)
    aucs = []
    for deviation in (0.0, 3.0):
        ratios: tuple[list, list] = ([], [])
        for _ in range(20):
            chosen = generator.permutation(200)[:16]
            vector = private[chosen[:8]].mean(axis=0) + deviation * generator.normal(size=100)
            for kept, part in zip(ratios, (chosen[:8], chosen[8:]), strict=True):
                kept.append(attacker.scores(vector, part, 8, deviation))
        aucs.append(membership_auc(*ratios))
    assert aucs[0] > 0.95
    assert 0.4 < aucs[1] < 0.65


def test_scores_count_what_they_say() -> None:
    words = np.zeros((2, 20))
    words[:, :5] = 0.5
    truth = Facts(np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]]), words)
    right = Facts(np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0]]), words)
    wrong = Facts(np.array([[0.0, 0.1, 0.9], [0.6, 0.4, 0.0]]), -words)
    assert majority_accuracy(right, truth) == 1.0  # either of two equally common labels
    assert majority_accuracy(wrong, truth) == 0.0
    assert (top_words(right, truth), top_words(wrong, truth)) == (0.5, 0.0)
    assert membership_auc([np.array([1.0, 2.0])], [np.array([0.0, 1.5])]) == 0.75


def test_word_auc_is_scikit_learns_for_each_word(generator) -> None:
    """Words that all or none have say nothing, and ties count half."""
    labels = np.ones((12, 2))
    occurs = (generator.random((12, 30)) < 0.3).astype(float)
    occurs[:, 0], occurs[:, 1] = 0, 1
    scores = generator.integers(0, 5, (12, 30)).astype(float)
    told = [word for word in range(30) if 0 < occurs[:, word].sum() < 12]
    expected = np.mean([roc_auc_score(occurs[:, word], scores[:, word]) for word in told])
    assert word_auc(Facts(labels, scores), Facts(labels, occurs)) == pytest.approx(expected)
    assert word_auc(Facts(labels, np.ones((12, 30))), Facts(labels, occurs)) == 0.5
