"""One pass of a model for all heads that ask for it."""

from collections.abc import Callable, Iterable

from torch import Tensor

from mnv2vision.contracts import Network, Raw

Run = Callable[[Tensor], Raw | dict[str, Raw]]
"""From normalised images (N, 3, H, W) to the raw output of a model: of its only head, or by head."""


def shared_pass(run: Run, heads: Iterable[str]) -> dict[str, Network]:
    """The network of each head; heads that ask for the same images, one after another, share a pass.

    The images and outputs of the last pass are kept, so that a batch has a shared pass of its own.

    Args:
        run: The model.
        heads: Their names.
    """
    kept: list[tuple[Tensor, Raw | dict[str, Raw]]] = []

    def network(name: str) -> Network:
        def of_head(images: Tensor) -> Raw:
            if not kept or kept[0][0] is not images:
                kept[:] = [(images, run(images))]
            raw = kept[0][1]
            return raw[name] if isinstance(raw, dict) else raw

        return of_head

    return {name: network(name) for name in heads}
