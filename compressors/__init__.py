"""What a choice does to a layer: sparsify, decompose, quantize, fine-tune, export."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gulliver.compressors.compress import apply

__all__ = ["apply"]


def __getattr__(name: str) -> Any:
    """Load `apply` when it is first asked for, so that importing the package does not import torch."""
    if name == "apply":
        from gulliver.compressors.compress import apply

        return apply
    raise AttributeError(name)
