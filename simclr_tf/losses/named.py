"""Contrastive losses from names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from simclr_tf.errors import UserError
from simclr_tf.losses.batch_losses import FunctionLoss, GeneralizedContrastive
from simclr_tf.losses.contrastive_loss import ContrastiveLoss
from simclr_tf.losses.names import OPTIONS
from simclr_tf.losses.pairwise_losses import MarginTriplet, NTLogistic
from simclr_tf.losses.softmax_losses import DCL, DCLW, HCL, Debiased, InfoNCE, NTXent, SupCon

_CLASSES: dict[str, type[ContrastiveLoss]] = {
    "nt_xent": NTXent,
    "nt_logistic": NTLogistic,
    "margin_triplet": MarginTriplet,
    "supcon": SupCon,
    "dcl": DCL,
    "dclw": DCLW,
    "debiased": Debiased,
    "hcl": HCL,
    "generalized": GeneralizedContrastive,
    "info_nce": InfoNCE,
}


def make_loss(
    loss: str | ContrastiveLoss | Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = "nt_xent",
    temperature: float = 0.1,
    hidden_norm: bool = True,
    **options: Any,
) -> ContrastiveLoss:
    """Returns a contrastive loss.

    Args:
        loss: A name from `losses/names.py`; a function of two embeddings; or a loss, which is
            returned itself.
        temperature: Of a loss that is made here.
        hidden_norm: Likewise, of those that don't need embeddings of length 1.
        **options: The other settings of the named loss.

    Raises:
        UserError: No such loss, or settings that it does not take.

    Example:
        >>> make_loss("dclw", temperature=0.2, dclw_sigma=0.3)
    """
    if isinstance(loss, ContrastiveLoss):
        return loss
    if not isinstance(loss, str):
        return FunctionLoss(loss, temperature, hidden_norm)
    if loss not in _CLASSES:
        raise UserError(
            f"Expected loss to be one of {', '.join(_CLASSES)}, a function of two embeddings, or a "
            f"ContrastiveLoss; received: {loss!r}."
        )
    unknown = [name for name in options if name not in OPTIONS[loss]]
    if unknown:
        raise UserError(
            f"Expected settings of loss {loss} ({', '.join(OPTIONS[loss]) or 'none'}); received: "
            f"{unknown[0]}. Leave it away."
        )
    if "similarity" in OPTIONS[loss]:
        options["hidden_norm"] = hidden_norm
    elif not hidden_norm:
        raise UserError(
            f"Expected hidden_norm=True with loss {loss}, which says itself how embeddings are "
            "scaled; received: False."
        )
    return _CLASSES[loss](temperature=temperature, **options)
