"""Losses and penalties by name, and which settings each loss takes. No TensorFlow here."""

from __future__ import annotations

NT_XENT = "nt_xent"

OPTIONS: dict[str, tuple[str, ...]] = {
    NT_XENT: ("similarity",),
    "nt_logistic": ("similarity", "negatives"),
    "margin_triplet": ("similarity", "negatives", "margin"),
    "supcon": ("similarity",),
    "dcl": ("similarity",),
    "dclw": ("similarity", "dclw_sigma"),
    "debiased": ("positive_prior",),
    "hcl": ("positive_prior", "hard_negative_beta"),
    "generalized": ("prior", "prior_weight"),
    "info_nce": ("similarity",),
}
"""Name of a loss -> the settings that it takes beside `temperature` and `hidden_norm`."""

SIMILARITIES = ("cosine", "euclidean")
NEGATIVES = ("all", "semi_hard")
PRIORS = ("sphere", "normal", "cube")
# What weight decay may weigh; see `training/decay.py`.
PENALTIES = ("l2", "smooth_l1", "decoupled")

# The losses that compare a view with each other one, so that further negatives can be added.
WITH_MEMORY = ("nt_xent", "nt_logistic", "margin_triplet", "dcl", "debiased", "hcl")
NEEDS_LABELS = ("supcon",)
