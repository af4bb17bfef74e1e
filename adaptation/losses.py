"""Similarities of pairs, and the contrastive loss on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarities(left: Tensor, right: Tensor) -> Tensor:
    """S (N, N): cosine of every left with every right embedding (N, D), in -1..1; partners are on the diagonal."""
    return F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).mT


def contrastive_loss(similarities: Tensor, temperature: float) -> Tensor:
    """0.5 CE(t S) + 0.5 CE(t S^T), the target of each row being its diagonal entry; a scalar.

    The temperature t multiplies the cosine (the logit scale of CLIP). With logits L = t S the cross-entropy of row i is
    log sum_j exp L_ij - L_ii, and that of column i the same over rows.
    """
    logits = temperature * similarities  # N N
    partners = logits.diagonal()  # N
    left_to_right = torch.logsumexp(logits, dim=1) - partners
    right_to_left = torch.logsumexp(logits, dim=0) - partners
    return 0.5 * (left_to_right.mean() + right_to_left.mean())
