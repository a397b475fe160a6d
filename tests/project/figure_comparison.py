"""Whether the csv of figures hold what the committed ones hold, within tolerances for other machines."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

RELATIVE = 0.02
RELATIVE_OF_DRAWS = 0.15
OF_THE_LARGEST = 0.003
LAST_DIGITS = 3
"""Numbers may differ by 2 % of the committed one or 0.3 % of the largest in their column, decimals in texts by 3 last digits.

Numbers of random subnetworks may differ by 15 %. A mask that keeps one weight more in one matrix gets other random controls:
the KL of eight draws like mini's mask at lambda 1 was 3.95 to 4.57 nats (standard deviation 4 %), its r .624 to .645.

On one machine all are bit-equal. When notebook 02 was executed with the instructions of an older processor (AVX2 in place of
AVX-512), masks kept up to 0.03 % more or fewer weights, r differed by up to 0.4 %, the KL by up to 0.8 %, small counts and
shares by up to 0.15 % of the largest. A changed method, corpus or seed changes them by far more.
"""
OF_SCORES = 0.05
SCORED = ("11", "12_parts", "13")
"""Notebooks whose numbers are shares of right answers of models that are tuned live: they may differ by three of 60 items.

They were the same to all digits with the instructions of an older processor, and with the base changed by a millionth.
"""
STEPS_BETWEEN_CHECKS = 10
NOT_MADE = {"00_pretraining.csv"}
"""Only `make pretrain` makes it."""
OF_FRONTIER = {"perplexity", "r_spread", "cross_entropy_spread"}  # exp(cross_entropy), and how two or three draws differ
MAY_DIFFER = {
    "02_frontier.csv": OF_FRONTIER,
    "09_page.csv": OF_FRONTIER,  # the same table
    "02_provenance.csv": {"library", "steps"},  # the version; when a search stops, which 02_training.csv compares
    "08_build_up.csv": {
        "part",
        "kept",
    },  # of two parts that are about as good, rounding chooses; what each step reaches is the same
}
"""Columns by file that other versions and machines change without changing what was found."""
NUMBER = re.compile(r"(?<![\w.])(?<!head )[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def folder_differences(committed: Path, made: Path) -> list[str]:
    """What is wrong with the csv that were made, a sentence each: missing, not committed, or different."""
    expected, found = ({file.name for file in folder.glob("*.csv")} for folder in (committed, made))
    missing = [f"{name} was not made" for name in sorted(expected - NOT_MADE - found)]
    extra = [f"{name} was made but is not committed" for name in sorted(found - expected)]
    return missing + extra + [line for name in sorted(expected & found) for line in differences(committed / name, made / name)]


def differences(committed: Path, made: Path) -> list[str]:
    """How a csv differs from the committed one beyond the tolerances, a sentence for each place."""
    name = committed.name
    before, after = (pd.read_csv(file) for file in (committed, made))
    if name == "02_provenance.csv":  # later versions may record more, in another order
        after = after[[column for column in before if column in after]]
    if list(before) != list(after):
        return [f"{name} has the columns {list(after)}, not {list(before)}"]
    found = []
    if name == "claims.csv":  # their order is that in which notebooks were executed
        before, after = (table.sort_values("claim", ignore_index=True) for table in (before, after))
    if name == "02_training.csv":
        before, after = (table.astype({"step": float, "sparsity_penalty": float}) for table in (before, after))
        found = stops(before, after)
        shared = before.merge(after, on=["sparsity_penalty", "step"])[["sparsity_penalty", "step"]]
        before, after = (table.merge(shared, on=["sparsity_penalty", "step"]) for table in (before, after))
    if len(before) != len(after):
        return [f"{name} has {len(after)} rows, not {len(before)}"]
    for column in before.columns.difference(MAY_DIFFER.get(name, set()), sort=False):
        if pd.api.types.is_numeric_dtype(before[column]):
            absolute = OF_SCORES if name.startswith(SCORED) else OF_THE_LARGEST * largest(before[column])
            alike = numbers_alike(before[column], after[column], relative_tolerances(before), absolute)
        else:
            alike = texts_alike(before[column], after[column])
        for row in np.flatnonzero(~alike):
            found.append(f"{name} has {after[column][row]!r} as {column} in row {row}, not {before[column][row]!r}")
    return found


def stops(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Searches that stop more than one check of the stop rule sooner or later than the committed ones."""
    last = pd.concat([table.groupby("sparsity_penalty").step.max() for table in (before, after)], axis=1)
    apart = last[~((last.iloc[:, 0] - last.iloc[:, 1]).abs() <= STEPS_BETWEEN_CHECKS)]
    return [
        f"02_training.csv stops at step {new:g}, not {old:g}, at sparsity_penalty {penalty:g}"
        for penalty, old, new in apart.itertuples()
    ]


def relative_tolerances(table: pd.DataFrame) -> np.ndarray:
    """By how much of itself a number of each row may differ."""
    drawn = table["case"].astype(str).str.contains("random") if "case" in table else pd.Series(False, table.index)
    return np.where(drawn, RELATIVE_OF_DRAWS, RELATIVE)


def largest(column: pd.Series) -> float:
    """The largest finite number of a column, apart from its sign."""
    numbers = column.to_numpy(float)
    return float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0))


def numbers_alike(before: pd.Series, after: pd.Series, relative: np.ndarray, absolute: float) -> np.ndarray:
    """Which rows hold about the same number, or none in both."""
    if not pd.api.types.is_numeric_dtype(after):
        return (before.astype(str) == after.astype(str)).to_numpy()
    a, b = before.to_numpy(float), after.to_numpy(float)
    apart = np.abs(b - a) > relative * np.abs(a) + absolute
    return np.where(np.isfinite(a) & np.isfinite(b), ~apart, (a == b) | (np.isnan(a) & np.isnan(b)))


def texts_alike(before: pd.Series, after: pd.Series) -> np.ndarray:
    """Which rows hold the same words around about the same numbers."""
    return np.array([text_alike(str(a), str(b)) for a, b in zip(before, after, strict=True)])


def text_alike(before: str, after: str) -> bool:
    """Whether two texts are the same words around about the same numbers."""
    if NUMBER.sub("#", before) != NUMBER.sub("#", after):
        return False
    pairs = zip(NUMBER.findall(before), NUMBER.findall(after), strict=True)
    return all(
        abs(float(a) - float(b)) <= max(RELATIVE * abs(float(a)), LAST_DIGITS * last_digit(a)) * (1 + 1e-9) for a, b in pairs
    )


def last_digit(number: str) -> float:
    """What one more in the last digit of a number with decimals adds; 0 for whole numbers, which may name something."""
    mantissa, _, exponent = number.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals) if decimals else 0.0
