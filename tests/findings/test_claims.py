"""Claims are judged by what was measured, and recorded once each."""

from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from bigramlib.__main__ import format_claims
from bigramlib.findings.claims import COLUMNS, Claim, Verdict, check, recorded, untestable
from bigramlib.findings.style import figure_folder
from bigramlib.findings.summary import ALL_CLAIMS

LARGE = Claim("The value is large", "above 1", "value {value:.2f}", lambda value: value > 1)
SURE = Claim("The value is surely large", "above 1", "{value:.2f} ({low:.2f} to {high:.2f})", lambda low, **_: low > 1, True)
NECESSARY = {"density": 0.04, "small_rise": 0.3, "small_random_rise": 0.01, "small_density": 0.01, "low": 2.9, "high": 3.1}
BETWEEN = {"low": 0.955, "high": 0.965}
UNKNOWN = {"low": float("nan"), "high": float("nan")}


def test_a_claim_holds_or_not_by_its_measured_values():
    assert check(None, LARGE, value=2.0) == Verdict(LARGE, "value 2.00", "yes")
    assert check(None, LARGE, value=0.5) == Verdict(LARGE, "value 0.50", "no")
    assert check(None, LARGE, value=float("nan")) == Verdict(LARGE, "value unknown", "no")


def test_the_papers_claims_hold_or_not_by_their_measured_values():
    exists, necessary = ALL_CLAIMS["exists"], ALL_CLAIMS["necessary"]
    assert check(None, exists, r=0.96, density=0.04, **BETWEEN).holds == "yes"
    assert check(None, exists, r=0.96, density=0.06, **BETWEEN).holds == "no"
    assert check(None, exists, r=float("nan"), density=float("nan"), **BETWEEN).holds == "no"
    assert check(None, necessary, rise=3.0, random_rise=0.1, **NECESSARY).holds == "yes"
    assert check(None, necessary, rise=3.0, random_rise=0.4, **NECESSARY).holds == "no"


def test_a_verdict_is_printed_with_its_numbers_and_its_conclusion_has_none():
    verdict = check(None, LARGE, value=2.0)
    assert str(verdict) == "yes: value 2.00\n    The value is large (paper: above 1)"
    assert verdict.conclusion == "yes: The value is large"
    assert untestable(None, LARGE, "no value").conclusion == "not testable: The value is large"


def test_several_values_are_shown_one_by_one():
    sizes = Claim("", "", "{penalties:g}: {shares:.0%} and {value:.1f}", lambda **_: True)
    assert check(None, sizes, penalties=[10, 30.0], shares=[0.5, 0.256], value=2).ours == "10 and 30: 50% and 26% and 2.0"


def test_what_cannot_be_tested_says_why():
    assert untestable(None, LARGE, "no value was measured") == Verdict(LARGE, "no value was measured", "not testable")


def test_an_unknown_interval_is_said_in_words():
    exists, tiny = ALL_CLAIMS["exists"], ALL_CLAIMS["exists, tiny"]
    words = "(interval unknown: too few to tell)"
    found = check(None, exists, r=0.96, density=0.04, **UNKNOWN)
    assert (found.holds, found.ours) == ("yes", f"r 0.960 {words} with 4.00% kept")
    found = check(None, tiny, r=float("nan"), density=0.004, **UNKNOWN)
    assert (found.holds, found.ours) == ("no", f"r unknown {words} with 0.40% kept")
    share = Claim("", "", "{low:+.0%} to {high:+.0%} of {bananas}", lambda **_: True)
    assert check(None, share, bananas="bananas", **UNKNOWN).ours == "interval unknown: too few to tell of bananas"


def test_an_unknown_interval_decides_nothing_where_a_claim_is_judged_by_it():
    assert check(None, SURE, value=2.0, **UNKNOWN).holds == "not testable"
    assert check(None, SURE, value=2.0, low=1.5, high=2.5).holds == "yes"
    assert check(None, SURE, value=2.0, low=0.5, high=3.5).holds == "no"
    assert check(None, SURE, value=2.0, **UNKNOWN).ours == "2.00 (interval unknown: too few to tell)"


def test_a_share_is_shown_with_as_many_decimals_as_it_needs():
    claim = Claim("few", "", "{density:.1%} kept, {others:.0%} of them early", lambda **_: True)
    assert check(None, claim, density=0.00004, others=0.61).ours == "0.0040% kept, 61% of them early"


def test_every_claim_that_is_judged_by_an_interval_shows_it():
    judged = [claim for claim in ALL_CLAIMS.values() if claim.judged_by_interval]
    assert judged and all("{low" in claim.ours and "{high" in claim.ours for claim in judged)


def test_the_file_has_one_row_for_each_claim_in_the_order_of_their_first_record(tmp_path):
    untestable(tmp_path, SURE, "no checkpoints")
    check(tmp_path, LARGE, value=0.5)
    check(tmp_path, SURE, value=2.0, **UNKNOWN)
    check(tmp_path, LARGE, value=2.0)
    table = pd.read_csv(tmp_path / "claims.csv")
    assert list(table.columns) == COLUMNS == ["claim", "paper", "ours", "holds"]
    assert table.to_numpy().tolist() == [
        ["The value is surely large", "above 1", "2.00 (interval unknown: too few to tell)", "not testable"],
        ["The value is large", "above 1", "value 2.00", "yes"],
    ]


def test_texts_of_nothing_and_of_nan_are_read_as_they_were_recorded(tmp_path):
    for reason in ("", "NA", "nan"):
        untestable(tmp_path, LARGE, reason)
        assert recorded(tmp_path)["The value is large"][2] == reason


def test_what_is_recorded_is_read_by_the_text_of_its_claim(tmp_path):
    assert recorded(None) == recorded(tmp_path) == recorded(tmp_path / "nothing") == {}
    check(tmp_path, LARGE, value=2.0)
    assert recorded(tmp_path) == {"The value is large": ("The value is large", "above 1", "value 2.00", "yes")}


def test_without_a_folder_a_claim_is_judged_and_recorded_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check(None, LARGE, value=2.0).holds == "yes"
    assert untestable(None, LARGE, "no reason").holds == "not testable"
    assert not list(tmp_path.iterdir())


def test_a_measured_value_that_is_not_given_is_an_error_and_leaves_no_row(tmp_path):
    with pytest.raises(TypeError, match="value"):
        check(tmp_path, LARGE)
    assert not (tmp_path / "claims.csv").exists()


def test_of_claims_recorded_at_the_same_time_none_is_lost(tmp_path):
    folder, claims = tmp_path / "figures" / "mini", list(ALL_CLAIMS.values())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda claim: untestable(folder, claim, "no reason"), claims))
    assert set(recorded(folder)) == {claim.text for claim in claims}
    assert len(pd.read_csv(folder / "claims.csv")) == len(claims)
    assert [file.name for file in folder.iterdir()] == ["claims.csv"]


def test_claims_are_printed_with_what_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(figure_folder("mini", "figures"), ALL_CLAIMS["exists"], r=0.96, density=0.04, **BETWEEN)
    assert "Claims checked on mini (1 of 1 hold)" in format_claims("mini")
    assert (
        "Chang & Bergen 2025: r > 0.95 with about 10M weights; ours: r 0.960 (0.955 to 0.965) with 4.00% kept"
        in format_claims("mini")
    )
