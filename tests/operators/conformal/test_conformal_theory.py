"""Scores, guarantees on simulated questions, and measures of prediction sets."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.conformal.theory import (
    OTHERS,
    Pools,
    ScoreWeights,
    average_size,
    coverage,
    coverage_gap,
    covers,
    drift,
    first_k_scores,
    is_stable,
    lofree_scores,
    logit_scores,
    normalised_entropy,
    quantiles,
    risk_threshold,
    scored,
    singleton_share,
    size_strata,
    size_stratified_miscoverage,
    smallest_risk,
    taxonomy,
    true_scores,
    tune,
    unseen_scores,
)

# -- scores --------------------------------------------------------------------------------------------------------------


def pools(counts, correct=None, similarity=None, **more) -> Pools:
    counts = np.array(counts)
    return Pools(
        counts=counts,
        similarity=np.zeros(counts.shape) if similarity is None else np.array(similarity),
        first=more.pop("first", np.tile(np.arange(counts.shape[1]), (len(counts), 1))),
        correct=np.zeros(counts.shape, bool) if correct is None else np.array(correct),
        **more,
    )


def test_the_score_is_minus_frequency_plus_entropy_minus_similarity():
    made = pools([[6, 3, 1, 0], [10, 0, 0, 0]], similarity=[[0, 0.5, -0.2, 0], [0] * 4])
    entropy = -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1)) / math.log(10)
    assert normalised_entropy(made) == pytest.approx([entropy, 0.0])
    scores = lofree_scores(made, 0.1, 0.2)
    assert scores[0, :3] == pytest.approx([-0.6 + 0.1 * entropy, -0.3 + 0.1 * entropy - 0.1, -0.1 + 0.1 * entropy + 0.04])
    assert scores[1, 0] == -1.0
    assert np.isinf(scores[0, 3])
    assert np.isinf(scores[1, 1:]).all()


def test_entropy_is_1_where_all_samples_differ_and_0_for_a_single_sample():
    assert normalised_entropy(pools([[1, 1, 1, 1]])) == pytest.approx([1.0])
    assert normalised_entropy(pools([[1, 0]])) == pytest.approx([0.0])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 30), st.randoms())
def test_entropy_is_identical_to_the_last_bit_whatever_the_other_questions(counts, padding, random):
    turned = random.sample(counts, len(counts))
    wide = normalised_entropy(pools([[*turned, *[0] * padding], [1] * (len(counts) + padding)]))
    assert normalised_entropy(pools([counts]))[0] == wide[0]


def test_the_true_score_is_the_best_accepted_answers_score_or_infinite():
    made = pools([[5, 3, 2], [5, 3, 2]], correct=[[False, True, True], [False] * 3])
    assert true_scores(lofree_scores(made), made.correct).tolist() == [-0.3, math.inf]


def test_baselines_rank_by_first_appearance_and_by_log_probability():
    made = pools([[5, 3, 2]], first=np.array([[1, 0, 2]]), log_probability=np.array([[-0.5, -0.1, -math.inf]]))
    assert first_k_scores(made).tolist() == [[2, 1, 3]]
    assert logit_scores(made).tolist() == [[0.5, 0.1, math.inf]]
    with pytest.raises(ValueError, match="log-probabilities"):
        logit_scores(pools([[1]]))


def world(random: np.random.Generator, n: int, samples: int = 12, answers: int = 8) -> Pools:
    """Questions of a model whose chosen answer may be wrong, and whose truth may never be sampled."""
    counts = np.zeros((n, answers), int)
    correct = np.zeros((n, answers), bool)
    for row in range(n):
        law = random.dirichlet(np.full(answers, random.choice([0.1, 0.6])))
        drawn = np.bincount(random.choice(answers, samples, p=law), minlength=answers)
        truth = random.choice(answers, p=0.7 * law + 0.3 / answers)
        order = np.argsort(-drawn, kind="stable")
        counts[row], correct[row] = drawn[order], (order == truth) & (drawn[order] > 0)
    return pools(counts, correct=correct)


def test_tuning_chooses_the_smallest_weights_with_the_smallest_mean_set():
    made = world(np.random.default_rng(3), 300)
    similar = np.random.default_rng(4).random(made.counts.shape) * made.sampled
    similar[:, 0] = 0
    made = pools(made.counts, made.correct, similar)
    [best] = tune(made, [0.4])

    def mean_size(weights: ScoreWeights) -> float:
        scores = lofree_scores(made, *weights)
        [threshold] = quantiles(true_scores(scores, made.correct), [0.4])
        return float((scores <= threshold).sum(axis=1).mean())

    sizes = {ScoreWeights(i / 100, j / 50): mean_size(ScoreWeights(i / 100, j / 50)) for i in range(11) for j in range(11)}
    assert best.size == pytest.approx(min(sizes.values()))
    assert sizes[best.weights] == pytest.approx(best.size)
    flat = pools([[4, 0]] * 30, correct=[[True, False]] * 30)
    assert tune(flat, [0.2])[0].weights == ScoreWeights(0.0, 0.0)


# -- guarantees on simulated questions -----------------------------------------------------------------------------------

TRIALS, CALIBRATED, TESTED = 150, 150, 150


def covered_share(alpha: float, **how) -> float:
    random = np.random.default_rng(11)
    shares = []
    for _ in range(TRIALS):
        made = world(random, CALIBRATED + TESTED)
        scores, correct = scored(made, ScoreWeights(0.05, 0.0), **how)
        true = true_scores(scores, correct)
        [threshold] = quantiles(true[:CALIBRATED], [alpha])
        assert np.isfinite(threshold)
        shares.append(covers(true[CALIBRATED:], threshold).mean())
    return float(np.mean(shares))


SLACK = 4 * math.sqrt(0.25 / CALIBRATED + 0.25 / TESTED) / math.sqrt(TRIALS)


@pytest.mark.proof
def test_sets_of_sampled_answers_cover_at_a_feasible_level():
    assert covered_share(0.45) > 0.55 - SLACK


@pytest.mark.proof
def test_with_none_of_these_as_an_answer_every_level_is_feasible_and_covered():
    """The level 0.1 is infeasible with the sampled answers alone, because the truth is missing more often than that."""
    random = np.random.default_rng(11)
    made = world(random, 3000)
    assert (~made.found).mean() > 0.1
    assert covered_share(0.1, unseen=True) > 0.9 - SLACK
    assert unseen_scores(pools([[5, 1, 1], [7, 0, 0]])) == pytest.approx([-2 / 7, 0.0])


def test_the_whole_pool_does_not_cover_where_the_threshold_is_infinite():
    made = world(np.random.default_rng(1), 2000)
    true = true_scores(lofree_scores(made), made.correct)
    [threshold] = quantiles(true, [0.05])
    assert math.isinf(threshold)
    assert not covers(true, threshold)[~made.found].any()
    assert covers(true, threshold).mean() < 0.95


def test_large_groups_are_covered_individually_and_small_ones_jointly():
    random = np.random.default_rng(5)
    names = ["easy", "hard", *(f"rare {number}" for number in range(6))]
    shares: dict[str, list[float]] = {}
    for _ in range(TRIALS):
        n = 1200
        group = random.choice(len(names), n, p=[0.5, 0.3, *[0.2 / 6] * 6])
        score = random.normal(np.where(group == 0, 0.0, np.where(group == 1, 2.0, 4.0 + group)))
        labels = [names[number] for number in group]
        known = taxonomy(labels[:300], minimum=40)
        assert known.kept == {"easy", "hard"}
        cal, new = known.masks(labels[300:800]), known.masks(labels[800:])
        assert set(cal) == {"easy", "hard", OTHERS}
        for name, inside in cal.items():
            [threshold] = quantiles(score[300:800][inside], [0.2])
            shares.setdefault(name, []).append(float((score[800:][new[name]] <= threshold).mean()))
    for name, found in shares.items():
        assert abs(np.mean(found) - 0.8) < 0.02, name
    assert known.category("never seen") == known.category(None) == OTHERS


def test_risk_control_keeps_the_mean_loss_at_or_below_its_level():
    random = np.random.default_rng(9)
    losses_found = []
    for _ in range(TRIALS):
        score = np.sort(random.random((400, 6)), axis=1)
        loss = np.sort(random.random((400, 6)), axis=1)[:, ::-1] ** (1 + score)  # falls as the set grows
        threshold = risk_threshold(score[:200], loss[:200], 0.3)
        inside = (score[200:] <= threshold).sum(axis=1)
        of_sets = np.where(inside > 0, np.take_along_axis(loss[200:], np.maximum(inside - 1, 0)[:, None], 1)[:, 0], 1.0)
        losses_found.append(of_sets.mean())
    assert np.mean(losses_found) <= 0.3
    assert np.mean(losses_found) > 0.25, "it would be safe to put everything into the sets; this is to be tight"


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3, unique=True), min_size=1, max_size=30),
    st.data(),
    st.fractions(min_value="1/20", max_value="19/20", max_denominator=20),
)
def test_with_the_loss_missed_risk_control_is_the_conformal_quantile(rows, data, alpha):
    scores = np.sort(np.array(rows, float), axis=1)
    place = np.array([data.draw(st.integers(0, 3)) for _ in rows])  # 3: never sampled
    losses = (np.arange(3) < place[:, None]).astype(float)
    true = np.where(place < 3, np.take_along_axis(scores, np.minimum(place, 2)[:, None], 1)[:, 0], np.inf)
    assert risk_threshold(scores, losses, alpha) == quantiles(true, [alpha])[0]


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=30),
    st.fractions(min_value="1/40", max_value="39/40", max_denominator=40),
)
def test_the_smallest_level_of_risk_control_is_where_its_threshold_becomes_finite(losses, alpha):
    feasible = smallest_risk(losses)
    assert 0 < feasible.low <= feasible.alpha <= feasible.high <= 1
    threshold = risk_threshold(np.zeros((len(losses), 1)), np.array(losses)[:, None], alpha)
    assert np.isfinite(threshold) == (len(losses) > 0 and feasible.alpha <= alpha + Fraction(1, 10**9))


def test_risk_control_requires_losses_falling_from_1_and_may_be_infeasible():
    with pytest.raises(ValueError, match="grows"):
        risk_threshold([[0.0, 1.0]], [[0.2, 0.9]], 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        risk_threshold([[0.0]], [[-1.0]], 0.5)
    assert risk_threshold([[0.0]] * 20, [[1.0]] * 20, 0.5) == math.inf
    assert risk_threshold(np.empty((0, 0)), np.empty((0, 0)), 0.5) == math.inf


def test_sampling_stops_when_the_answers_are_stable():
    assert not is_stable([], 3)
    assert not is_stable(["a", "a", "a"], 3)
    assert is_stable(["a", "a", "a", "a"], 3)
    assert not is_stable(["a", "a", "a", "b"], 3)
    assert not is_stable(["b", "b", "a", "a", "a"], 2), "the most frequent answer changed"
    assert not is_stable(["a", "a", "a"], 5), "five samples are not there yet"


def adaptive(random: np.random.Generator, n: int, budget: int) -> tuple[Pools, float]:
    """Questions sampled five at a time until `is_stable`, and the mean number of samples."""
    rows, truths, used = [], [], 0
    for _ in range(n):
        law = random.dirichlet(np.full(8, random.choice([0.1, 0.6])))
        stream = random.choice(8, budget, p=law)
        stop = next((m for m in range(5, budget, 5) if is_stable(stream[:m].tolist(), 4)), budget)
        drawn = np.bincount(stream[:stop], minlength=8)
        truth = random.choice(8, p=0.8 * law + 0.2 / 8)
        order = np.argsort(-drawn, kind="stable")
        rows.append(drawn[order])
        truths.append((order == truth) & (drawn[order] > 0))
        used += stop
    return pools(rows, correct=truths), used / n


@pytest.mark.proof
def test_sets_cover_when_calibration_and_new_questions_stop_by_the_same_rule():
    random = np.random.default_rng(13)
    shares, used = [], []
    for _ in range(60):
        made, mean = adaptive(random, 300, budget=20)
        true = true_scores(lofree_scores(made), made.correct)
        [threshold] = quantiles(true[:150], [0.4])
        shares.append(covers(true[150:], threshold).mean())
        used.append(mean)
    assert np.mean(shares) > 0.6 - 4 * math.sqrt(0.5 / 150 / 60)
    assert np.mean(used) < 16, "it saves samples"


@pytest.mark.proof
def test_the_drift_test_keeps_its_level_and_detects_a_shift():
    random = np.random.default_rng(17)
    null = [drift(random.random((60, 3)), random.random((40, 3)), 99, seed=trial).p_value for trial in range(300)]
    for level in (0.05, 0.1, 0.3):
        share = np.mean(np.array(null) <= level)
        assert share <= level + 4 * math.sqrt(level * (1 - level) / len(null))
    ties = [drift(random.integers(0, 2, (30, 2)), random.integers(0, 2, (30, 2)), 99, seed=t).p_value for t in range(200)]
    assert np.mean(np.array(ties) <= 0.1) <= 0.1 + 4 * math.sqrt(0.09 / 200)
    moved = drift(random.random((200, 2)), random.random((200, 2)) + np.array([0.0, 0.3]), 999)
    assert moved.p_value == 0.001
    assert moved.shifts[1] > 0.5 > abs(moved.shifts[0])
    assert drift(np.empty((0, 2)), random.random((5, 2))).p_value == 1.0


# -- measures ------------------------------------------------------------------------------------------------------------


def test_measures_have_their_intervals():
    covered, sizes = [True] * 90 + [False] * 10, [1] * 50 + [3] * 50
    assert coverage(covered)[0] == 0.9
    assert coverage(covered)[1:] == pytest.approx((0.8238, 0.9510), abs=1e-4)  # Clopper-Pearson of 90 in 100
    assert singleton_share(sizes).value == 0.5
    assert average_size(sizes).value == 2.0
    assert average_size(sizes).low == pytest.approx(2 - 1.984217 * 1.005038 / 10, abs=1e-5)
    for nothing in (coverage([]), average_size([]), singleton_share([]), size_stratified_miscoverage([], [])):
        assert math.isnan(nothing.value)


def test_strata_have_a_minimum_size_and_the_worst_is_reported():
    sizes = [0] * 5 + [1] * 30 + [2] * 19 + [3] * 40 + [9] * 3
    covered = [False] * 5 + [True] * 30 + [True] * 19 + [True] * 20 + [False] * 20 + [True] * 3
    strata = size_strata(sizes, covered)
    assert [(each.least, each.most, each.n) for each in strata] == [(0, 1, 35), (2, 9, 62)]
    assert size_stratified_miscoverage(sizes, covered).value == pytest.approx(20 / 62)
    assert size_strata([1] * 19, [True] * 19) == []


def test_the_coverage_gap_is_the_mean_distance_over_groups():
    covered, groups = [True] * 10 + [True] * 5 + [False] * 5, ["a"] * 10 + ["b"] * 10
    gap = coverage_gap(covered, groups, 0.2)
    assert gap.value == pytest.approx((0.2 + 0.3) / 2)
    assert gap.low <= gap.value <= gap.high
    assert gap == coverage_gap(covered, groups, 0.2), "seeded"


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_every_set_is_in_one_stratum(rows):
    sizes, covered = [size for size, _ in rows], [hit for _, hit in rows]
    strata = size_strata(sizes, covered)
    assert sum(each.n for each in strata) == (len(rows) if len(rows) >= 20 else 0)
