"""Claims are judged by what was measured, recorded once each, in order."""

from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from bigramlib.__main__ import format_claims
from bigramlib.findings.claims import CLAIMS, check, untestable
from bigramlib.findings.style import figure_folder
from bigramlib.findings.summary import claims_table

NECESSARY = {"density": 0.04, "small_rise": 0.3, "small_random_rise": 0.01, "small_density": 0.01, "low": 2.9, "high": 3.1}
BETWEEN = {"low": 0.955, "high": 0.965}


def test_a_claim_holds_or_not_by_its_measured_values(tmp_path):
    assert check(tmp_path, "exists", r=0.96, density=0.04, **BETWEEN).startswith("yes: A subnetwork predicts")
    assert check(tmp_path, "exists", r=0.96, density=0.06, **BETWEEN).startswith("no: ")
    assert check(tmp_path, "exists", r=float("nan"), density=float("nan"), **BETWEEN).startswith("no: ")
    assert check(tmp_path, "necessary", rise=3.0, random_rise=0.1, **NECESSARY).startswith("yes: ")
    assert check(tmp_path, "necessary", rise=3.0, random_rise=0.4, **NECESSARY).startswith("no: ")


def test_the_file_has_one_row_for_each_claim_in_their_order(tmp_path):
    check(tmp_path, "necessary", rise=3.0, random_rise=0.1, **NECESSARY)
    untestable(tmp_path, "early bigram", "no checkpoints")
    check(tmp_path, "exists", r=0.90, density=0.04, **BETWEEN)
    check(tmp_path, "exists", r=0.96, density=0.04, **BETWEEN)
    table = pd.read_csv(tmp_path / "claims.csv")
    assert list(table.columns) == ["claim", "paper", "ours", "holds"]
    assert list(table.claim) == [CLAIMS[key].text for key in ("early bigram", "exists", "necessary")]
    assert list(table.holds) == ["not testable", "yes", "yes"]
    assert table.ours[1] == "r 0.960 (0.955 to 0.965) with 4.00% kept"
    complete = claims_table(tmp_path)
    assert list(complete.claim) == [claim.text for claim in CLAIMS.values()]
    assert list(complete.holds).count("not measured") == len(CLAIMS) - 3
    assert complete[complete.holds != "not measured"].reset_index(drop=True).equals(table)


def test_an_unknown_interval_is_said_in_words_and_decides_nothing(tmp_path):
    unknown = {"low": float("nan"), "high": float("nan")}
    assert check(tmp_path, "exists", r=0.96, density=0.04, **unknown).startswith("yes: ")
    assert check(tmp_path, "exists, tiny", r=float("nan"), density=0.004, **unknown).startswith("no: ")
    bought = {"part": "head 0.1", "gain": 0.2, "full": 1.0}
    assert check(tmp_path, "inexplicable", **bought, **unknown).startswith("not testable: ")
    assert check(tmp_path, "inexplicable", **bought, low=0.1, high=0.3).startswith("yes: ")
    assert check(tmp_path, "inexplicable", **bought, **unknown).startswith("not testable: ")
    ours = dict(zip(*pd.read_csv(tmp_path / "claims.csv")[["claim", "ours"]].to_numpy().T, strict=True))
    unknown_words = "(interval unknown: too few documents)"
    assert ours[CLAIMS["exists"].text] == f"r 0.960 {unknown_words} with 4.00% kept"
    assert ours[CLAIMS["exists, tiny"].text] == f"r unknown {unknown_words} with 0.40% kept"
    assert ours[CLAIMS["inexplicable"].text] == f"head 0.1 buys 0.20 nats {unknown_words} of the full model's 1.00"


def test_the_current_token_fades_by_the_releases_measure(tmp_path):
    shown = {f"{name}{place}": 0.9 for name in ("cosine_", "direct_") for place in ("before", "after", "last")}
    between = {"low": 0.2, "high": 0.4, "last": 0.1}
    assert check(tmp_path, "current token fades", before=0.99, after=0.30, **between, **shown).startswith("yes: ")
    assert check(tmp_path, "current token fades", before=0.99, after=0.95, **between, **shown).startswith("no: ")
    ours = pd.read_csv(tmp_path / "claims.csv").ours[0]
    assert "by dot product (the release's measure) 0.990 to 0.950" in ours and "by centred cosine 0.900 to 0.900" in ours


def test_no_turn_is_seen_where_no_r_rises(tmp_path):
    nowhere = {"full_layer": 1, "full": 0.0, "layer": 1, "bigram": 0.0, "r": float("nan"), "low": 0.1, "high": 0.2}
    assert check(tmp_path, "turn", **nowhere).startswith("no: ")
    assert check(tmp_path, "turn", **nowhere | {"full": 0.1, "bigram": 0.1, "r": 0.9}).startswith("yes: ")


def test_without_a_folder_a_claim_is_judged_and_recorded_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check(None, "exists", r=0.96, density=0.04, **BETWEEN).startswith("yes: ")
    assert untestable(None, "exists", "no reason").startswith("not testable: ")
    assert set(claims_table(None).holds) == {"not measured"}
    assert claims_table(tmp_path / "nothing").equals(claims_table(None))
    assert not list(tmp_path.iterdir())


def test_of_claims_recorded_at_the_same_time_none_is_lost(tmp_path):
    folder, keys = tmp_path / "figures" / "mini", list(CLAIMS)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: untestable(folder, key, "no reason"), keys))
    assert list(pd.read_csv(folder / "claims.csv").claim) == [CLAIMS[key].text for key in keys]
    assert [file.name for file in folder.iterdir()] == ["claims.csv"]


def test_claims_are_printed_with_what_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(figure_folder("mini", "figures"), "exists", r=0.96, density=0.04, **BETWEEN)
    assert "Claims checked on mini (1 of 1 hold)" in format_claims("mini")
    assert "paper: r > 0.95 with about 10M weights; ours: r 0.960 (0.955 to 0.965) with 4.00% kept" in format_claims("mini")
