"""Tables of scores whose truth is known."""

import numpy as np
import pandas as pd


def score_table(chances: dict[str, np.ndarray], inputs: int, generator: np.random.Generator, **columns) -> pd.DataFrame:
    """A row for each input of each task in each arm; it is right with the task's chance."""
    parts = []
    for arm, chance in chances.items():
        tasks, items = np.repeat(np.arange(len(chance)), inputs), np.tile(np.arange(inputs), len(chance))
        correct = (generator.random(len(tasks)) < chance[tasks]).astype(int)
        names = [f"task {task:03}" for task in tasks]
        parts.append(pd.DataFrame({"task": names, "kind": "rule", "arm": arm, "input": items, "correct": correct}))
    return pd.concat(parts, ignore_index=True).assign(**columns)


def fact_table(tasks: int, generator: np.random.Generator) -> pd.DataFrame:
    """Facts that have nothing to do with scores."""
    facts = {"kind": "rule", "majority": generator.random(tasks), "answer_length": generator.integers(1, 9, tasks)}
    return pd.DataFrame(facts, index=[f"task {task:03}" for task in range(tasks)])


def logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def normal_pair(tasks: int, r: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two chances of each task whose logits correlate by r; the second arm gains."""
    x, noise = generator.normal(size=(2, tasks))
    return logistic(1.6 * x), logistic(1.6 * (r * x + (1 - r**2) ** 0.5 * noise) + 0.5)
