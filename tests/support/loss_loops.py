"""Contrastive losses as their papers write them: loops over views in float64, slow and obvious."""

from __future__ import annotations

import math

import numpy as np


def unit(hidden: np.ndarray) -> np.ndarray:
    return hidden / np.linalg.norm(hidden, axis=1, keepdims=True)


def rows_of(
    hidden, similarity="cosine", hidden_norm=True, labels=None, memory=(), keys=None, across=False
):
    """Returns, for each of the 2N views: the similarities of its positives, and of its negatives;
    the other view of its image comes first. `across`: no view of its own side is among them.
    `keys`: what the views are compared with instead of each other.
    """
    z = hidden.astype(np.float64)
    others = z if keys is None else keys.astype(np.float64)
    stored = np.asarray(memory, np.float64).reshape(-1, z.shape[1])
    if hidden_norm:
        z, others, stored = unit(z), unit(others), unit(stored) if len(stored) else stored
    count = len(z) // 2
    found = []
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        positives, negatives = [partner], []
        for j in range(2 * count):
            if j in (i, partner) or (across and (i < count) == (j < count)):
                continue
            same = labels is not None and labels[i % count] == labels[j % count] >= 0
            (positives if same else negatives).append(j)

        def alike(a, b):
            return float(a @ b) if similarity == "cosine" else -float(((a - b) ** 2).sum())

        found.append(
            (
                [alike(z[i], others[j]) for j in positives],
                [alike(z[i], others[j]) for j in negatives] + [alike(z[i], m) for m in stored],
            )
        )
    return found


def per_image(row_losses) -> float:
    """The sum over an image's two views, averaged over images, as the release counts."""
    return 2.0 * float(np.mean(row_losses))


def nt_xent(rows, t):
    return per_image(
        [
            -math.log(math.exp(p[0] / t) / (math.exp(p[0] / t) + sum(math.exp(s / t) for s in n)))
            for p, n in rows
        ]
    )


def clip(hidden, t):
    """The pseudo-code of CLIP's figure 3: a matrix of logits, read along rows and columns."""
    first, second = np.split(unit(hidden.astype(np.float64)), 2)
    logits = first @ second.T / t

    def cross_entropy(scores):
        return np.mean([-math.log(math.exp(r[i]) / np.exp(r).sum()) for i, r in enumerate(scores)])

    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def supcon(rows, t):
    losses = []
    for positives, negatives in rows:
        total = sum(math.exp(s / t) for s in [*positives, *negatives])
        losses.append(-np.mean([math.log(math.exp(p / t) / total) for p in positives]))
    return per_image(losses)


def dcl(rows, t):
    return per_image([-p[0] / t + math.log(sum(math.exp(s / t) for s in n)) for p, n in rows])


def dclw(rows, t, sigma):
    count = len(rows) // 2
    of_pairs = [math.exp(p[0] / sigma) for p, _ in rows[:count]]
    losses = []
    for i, (p, n) in enumerate(rows):
        weight = 2 - of_pairs[i % count] / np.mean(of_pairs)
        losses.append(-weight * p[0] / t + math.log(sum(math.exp(s / t) for s in n)))
    return per_image(losses)


def hcl(rows, t, prior, beta):
    losses = []
    for positives, negatives in rows:
        positive = math.exp(positives[0] / t)
        terms = np.exp(np.array(negatives) / t)
        weights = terms**beta
        count = len(terms)
        reweighted = (weights * terms).sum() / weights.mean()
        estimate = (-prior * count * positive + reweighted) / (1 - prior)
        estimate = max(estimate, count * math.exp(-1 / t))
        losses.append(-math.log(positive / (positive + estimate)))
    return per_image(losses)


def semi_hard(positive, negatives):
    farther = [s for s in negatives if s < positive]
    return [max(farther)] if farther else [min(negatives)]


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def nt_logistic(rows, t, negatives="all"):
    losses = []
    for p, n in rows:
        chosen = n if negatives == "all" else semi_hard(p[0], n)
        losses.append(-log_sigmoid(p[0] / t) - np.mean([log_sigmoid(-s / t) for s in chosen]))
    return per_image(losses)


def margin_triplet(rows, margin, negatives="all"):
    losses = []
    for p, n in rows:
        chosen = n if negatives == "all" else semi_hard(p[0], n)
        losses.append(np.mean([max(s - p[0] + margin, 0) for s in chosen]))
    return per_image(losses)


def generalized(hidden, drawn, rotation, weight, hidden_norm):
    z = hidden.astype(np.float64)
    z = unit(z) if hidden_norm else z
    first, second = np.split(z, 2)
    alignment = np.mean((first - second) ** 2) / 2
    distances = []
    for k in range(rotation.shape[1]):
        of_states = sorted(float(row @ rotation[:, k]) for row in z)
        of_prior = sorted(float(row @ rotation[:, k]) for row in drawn)
        distances += [(a - b) ** 2 for a, b in zip(of_states, of_prior, strict=True)]
    return alignment + weight * np.mean(distances)
