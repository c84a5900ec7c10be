"""What to try next, by rule, of a run's history."""

from collections.abc import Mapping, Sequence

import numpy as np

LEAST = 5
"""Validations before which a history says nothing."""


def of_history(rows: Sequence[Mapping[str, float]], metric: str) -> list[str]:
    """What the epochs tell: a run that was too short, or too long.

    Args:
        rows: Of `metrics.csv`, with `epoch`, `loss` and metrics.
        metric: That decides; the larger the better.
    """
    known = [row for row in rows if row.get(metric) is not None and np.isfinite(row[metric]) and "loss" in row]
    if len(known) < LEAST:
        return []
    values = [row[metric] for row in known]
    best = int(np.argmax(values))
    later = len(known) - 1 - best
    before, last = known[best]["loss"], known[-1]["loss"]
    if later >= max(3, len(known) // 3) and last < 0.9 * before:
        return [
            f"after epoch {known[best]['epoch']:.0f} the loss fell from {before:.3g} to {last:.3g}, but {metric} from"
            f" {values[best]:.4f} to {values[-1]:.4f}: the model learns the training images by heart. More photos,"
            " stronger augmentation, or early_stopping.patience"
        ]
    quarter = values[-1 - max(1, len(known) // 4)]
    if later == 0 and values[-1] > max(quarter, 0) * 1.02:
        return [
            f"{metric} still rose at the end, from {quarter:.4f} to {values[-1]:.4f} in the last quarter: train longer,"
            f" trainer.max_epochs={2 * round(known[-1]['epoch'])}"
        ]
    return []
