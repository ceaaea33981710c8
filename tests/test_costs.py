"""What rounds are learnt to cost, in calls as the engine makes them: some seconds long, of whatever width seems best."""

import numpy as np
import pytest

from pikojax.infer import costs, drafters, speculation
from pikojax.infer.costs import Costs

PARAMS = {"embed": np.zeros((10, 8), np.uint8), "blocks": tuple({"w": np.zeros(40, np.uint8)} for _ in range(4))}  # 80 bytes, 160


def rounds_of_calls(learnt: Costs, cost_W, right: float, calls: int, seconds: float = 0.05, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """[calls, W]: each call keeps to the width that gives most for what it is believed to cost."""
    rng, made = np.random.default_rng(seed), []
    tokens_W = (1 - right ** (np.asarray(learnt.widths) + 1)) / (1 - right)
    for _ in range(calls):
        rounds_W = np.zeros(len(learnt.widths), int)
        rounds_W[np.argmax(tokens_W / learnt.to_choose_by())] = learnt.rounds_in(seconds, 4, 64)
        learnt.learn(rounds_W, float(rounds_W @ cost_W) * np.exp(noise * rng.normal()))
        made.append(rounds_W)
    return np.asarray(made)


@pytest.mark.parametrize("right", [0.2, 0.6, 0.8])
@pytest.mark.parametrize("noise", [0.0, 0.15])
@pytest.mark.parametrize("expected_W", [[1, 1.07, 1.14, 1.21], [1, 1.8, 2.6, 3.4]])
def test_guesses_that_cost_more_than_they_bring_are_soon_let_alone(right, noise, expected_W):
    """An early exit of a model whose head is most of it: three guesses cost more than three rounds."""
    learnt, cost_W = Costs((0, 1, 2, 3), np.asarray(expected_W)), 1e-3 * np.asarray([1.0, 2.2, 3.4, 4.6])
    time_CW = rounds_of_calls(learnt, cost_W, right, 400, noise=noise) * cost_W
    assert time_CW[:, 0].sum() / time_CW.sum() > 0.92
    assert time_CW[50:150, 0].sum() / time_CW[50:150].sum() > 0.93


@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_guesses_that_pay_are_used_and_plain_rounds_are_looked_at_now_and_then(noise):
    learnt, cost_W = Costs((0, 3, 7), 1 + costs.ROW * np.asarray([0, 3, 7])), 1e-3 * np.asarray([1.0, 1.2, 1.5])
    time_CW = rounds_of_calls(learnt, cost_W, 0.9, 600, noise=noise) * cost_W
    assert time_CW[20:, 2].sum() / time_CW[20:].sum() > 0.97
    assert 1 < np.count_nonzero(time_CW[100:, 0]) < 20, "nothing else tells that they have become cheaper"
    np.testing.assert_allclose(learnt.each[[0, 2]], cost_W[[0, 2]], rtol=0.02 if not noise else 0.25)


def test_text_that_becomes_unguessable_is_written_plainly():
    """Guesses that paid by being right so often, at a price that is far from what was expected."""
    learnt, cost_W = Costs((0, 3), np.asarray([1.0, 1.2])), 1e-3 * np.asarray([1.0, 2.5])
    assert rounds_of_calls(learnt, cost_W, 0.95, 300)[5:, 1].sum() > 4000
    assert not rounds_of_calls(learnt, cost_W, 0.4, 100)[:, 1].any()


def test_a_trial_of_each_width_is_what_is_expected_then():
    learnt, cost_W, made = Costs((0, 3, 7), np.asarray([1, 1.2, 1.5])), np.asarray([1e-3, 4e-3, 30e-3]), []

    def once(n_rounds, costs_W):
        assert np.isfinite(costs_W).sum() == 1
        made.append((n_rounds, int(np.argmin(costs_W))))
        rounds_W = np.where(np.isfinite(costs_W), n_rounds, 0)
        return rounds_W, 2e-3 + float(rounds_W @ cost_W)

    learnt.try_each(once)
    assert made == [(0, 0), (1, 0), (1, 1), (1, 2)] + 2 * [(0, 0), (16, 0), (5, 1), (1, 2)], "as long as it takes to be sure, and no longer"
    np.testing.assert_allclose(learnt.each, cost_W, rtol=0.02)
    learnt.learn(np.asarray([10, 0, 0]), 2e-3 + 10e-3)
    np.testing.assert_allclose(learnt.each, cost_W, rtol=0.02)
    before = learnt.each
    assert not rounds_of_calls(learnt, cost_W, 0.9, 400)[:, 1:].any() and (learnt.each[1:] > 0.9 * before[1:]).all(), "it stays so"
    blind = Costs((0, 3), np.ones(2))
    blind.try_each(lambda *_: (np.zeros(2), 1e-3))  # rows that end at once tell nothing
    assert not blind.known and blind.each.tolist() == [1, 1]


@pytest.mark.parametrize("stalled", [(0,), (0, 1, 2, 3), (3, 4, 5), (6, 7, 8), (9, 10)])
def test_a_machine_that_was_held_up_for_a_moment_is_no_reason(stalled):
    """In the trial, or in a call later."""
    learnt, cost_W, n = Costs((0, 3, 7), np.asarray([1, 1.2, 1.5])), 1e-3 * np.asarray([1.0, 1.2, 1.5]), 0

    def once(n_rounds, costs_W):
        nonlocal n
        n += 1
        rounds_W = np.where(np.isfinite(costs_W), n_rounds, 0)
        return rounds_W, 1e-4 + float(rounds_W @ cost_W) + (0.05 if n - 1 in stalled else 0)

    learnt.try_each(once)
    rounds_of_calls(learnt, cost_W, 0.9, 5)
    learnt.learn(np.asarray([0, 0, 30]), 1.0)
    time_CW = rounds_of_calls(learnt, cost_W, 0.9, 300) * cost_W
    assert time_CW[:, 2].sum() / time_CW.sum() > 0.9


def test_calls_that_mix_widths_tell_what_each_costs():
    learnt, cost_W, rng = Costs((0, 3, 7), np.ones(3)), np.asarray([1.0, 1.3, 1.9]), np.random.default_rng(0)
    for _ in range(50):
        rounds_W = rng.integers(0, 20, 3)
        learnt.learn(rounds_W, float(rounds_W @ cost_W))
    np.testing.assert_allclose(learnt.each, cost_W, rtol=0.02)


def test_what_is_expected_is_what_guesses_read():
    assert Costs.of(None, PARAMS).expected.tolist() == [1]
    by = lambda spec: Costs.of(spec, PARAMS).expected - 1 - costs.ROW * np.asarray(spec.drafter.widths)
    np.testing.assert_allclose(by(speculation.OfText(drafters.Lookup((0, 3)))), 0, atol=1e-12)
    np.testing.assert_allclose(by(speculation.OfLayers(drafters.EarlyExit(1, (0, 1, 2)))), [0, 0.5, 1], atol=1e-12)
    small = speculation.OfModel(drafters.DraftModel(None, None, (2, 4)), None, {"embed": np.zeros(24, np.uint8), "blocks": ()})
    np.testing.assert_allclose(by(small), [0.2, 0.4], atol=1e-12)
    heads = {"onto": np.zeros(24, np.uint8), "blocks": (np.zeros(12, np.uint8), np.zeros(12, np.uint8))}
    np.testing.assert_allclose(by(speculation.OfHidden(drafters.Heads(None, (0, 1, 2)), heads)), [0, 116 / 240, 128 / 240], atol=1e-12)
