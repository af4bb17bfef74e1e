"""The ranks of partners among all candidates, counted while the similarities are worked through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEAR, TIE = 1e-6, 2.0**-23  # cosines this near are computed again in float64; those that still differ by less are tied
BLOCK = 2**10  # queries and candidates that are compared in float64 at a time


@dataclass(frozen=True)
class Contrast:
    """Of R runs with N pairs each: the loss (R,), and the ranks (R, N) of the partners, from 1 to N, left to right and
    right to left; `ranks` is empty where they are not wanted.

    A rank is one more than the number of other candidates that are at least as similar: ties count against the partner
    (a head that sends everything to one point gets rank N, not rank 1), and so do NaNs.
    """

    loss: Tensor
    ranks: tuple[Tensor, ...]


class Ranks:
    """Ranks of the partners of unit vectors `left` and `right` (R, N, D), from tiles of S = A B^T (R, N, N).

    `exact` says that S has the precision of the vectors. Similarities of rounded factors are compared as they are.
    """

    def __init__(self, left: Tensor, right: Tensor, partners: Tensor, exact: bool) -> None:
        self.left, self.right, self.partners, self.exact = left, right, partners, exact  # partners: S_ii (R, N)
        self.ranks = tuple(partners.new_full(partners.shape, partners.shape[-1]) for _ in range(2))
        self.near = tuple(torch.zeros_like(partners) for _ in range(2))

    def add(self, tile: Tensor, rows: slice, scratch: Tensor) -> None:
        """Count the candidates in some rows of S, a tile (R, n, N); `scratch` has its shape and is written over."""
        for direction, (dim, queries) in enumerate(((-1, rows), (-2, slice(None)))):
            behind, near = self._behind(tile, queries, dim, scratch)
            self.ranks[direction][:, queries] -= behind
            self.near[direction][:, queries] += near

    def _behind(self, tile: Tensor, queries: slice, dim: int, scratch: Tensor) -> tuple[Tensor, Tensor]:
        """How many candidates of a tile are less similar than the partner of each row (dim -1) or each column (-2), and
        how many are so near that rounding may decide (with the partner itself)."""
        partners = self.partners[:, queries].unsqueeze(dim)
        if not self.exact:
            return torch.lt(tile, partners, out=scratch).sum(dim), partners.squeeze(dim)
        behind = torch.lt(tile, partners - NEAR, out=scratch).sum(dim)
        return behind, torch.lt(tile, partners + NEAR, out=scratch).sum(dim) - behind

    def settled(self) -> tuple[Tensor, Tensor]:
        """Return the ranks (R, N) left to right and right to left, once all tiles were added.

        The ranks with candidates near the partner are found anew in float64, so that no shape of a tile decides. (On a
        GPU, to look for them would be to wait: there candidates that are near count as tied.)
        """
        left_to_right, right_to_left = self.ranks
        if self.exact and self.left.device.type == "cpu":
            _settle(left_to_right, self.near[0], self.left, self.right)
            _settle(right_to_left, self.near[1], self.right, self.left)
        return left_to_right, right_to_left


def _settle(ranks: Tensor, near: Tensor, queries: Tensor, candidates: Tensor) -> None:
    """Replace the ranks (R, N) that have another candidate than the partner near them."""
    for run, doubtful in enumerate(near > 1):
        chosen = doubtful.nonzero(as_tuple=True)[0]
        if len(chosen):
            ranks[run, chosen] = _exact_ranks(queries[run], candidates[run], chosen).to(ranks.dtype)


def _exact_ranks(queries: Tensor, candidates: Tensor, chosen: Tensor) -> Tensor:
    """The ranks (n,) of the partners of the `chosen` queries among all candidates (N, D), from cosines in float64; what
    is equal but for rounding is tied."""
    behind = torch.zeros(len(chosen), dtype=torch.int64)
    step = min(BLOCK, max(1, BLOCK**2 // candidates.shape[-1]))
    for part, counts in zip(torch.split(chosen, step), torch.split(behind, step), strict=True):
        some = queries[part].double()
        least = (some * candidates[part].double()).sum(-1, keepdim=True) - TIE
        for others in torch.split(candidates, step):
            counts += (some @ others.double().mT < least).sum(-1)
    return len(candidates) - behind
