"""Settings of tuning are checked, and the learning rate rises and falls as they say."""

import pytest

from bigramlib.instruction.tuning import TuneConfig


def test_the_rate_rises_to_its_highest_and_falls_towards_zero():
    config = TuneConfig(steps=10, warmup_steps=4, learning_rate=1.0)
    rates = [config.rate(step) for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 0.2


def test_without_warmup_the_rate_begins_at_its_highest():
    assert TuneConfig(steps=5, warmup_steps=0, learning_rate=2.0).rate(0) == 2.0


def test_numbers_may_be_given_as_text():
    assert TuneConfig(steps="2e1", learning_rate="1e-3", rank="4") == TuneConfig(steps=20, learning_rate=1e-3, rank=4)


def test_alpha_makes_no_difference_where_all_weights_are_tuned():
    assert TuneConfig(rank=None, alpha=1).facts() == TuneConfig(rank=None, alpha=2).facts()
    assert TuneConfig(alpha=1).facts() != TuneConfig(alpha=2).facts()


WRONG = {
    "steps": 0, "batch_size": 0, "learning_rate": 0, "warmup_steps": -1, "weight_decay": -0.1, "rank": 0, "alpha": 0,
    "written_examples": -1, "seed": -1,
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_refused_by_its_name(name):
    with pytest.raises(ValueError, match=f"^{name} is .*"):
        TuneConfig(**{name: WRONG[name]})


def test_warmup_must_end_before_the_steps_do():
    with pytest.raises(ValueError, match="warmup_steps is 10; it must be less than the 10 steps"):
        TuneConfig(steps=10, warmup_steps=10)
