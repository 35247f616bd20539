"""The study, the samplers, finalists, MLflow and the commands."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gulliver.search.api import search
    from gulliver.search.settings import Budget

__all__ = ["Budget", "search"]


def __getattr__(name: str) -> Any:
    """Load the public names when they are first asked for, so that every command starts at once."""
    if name == "search":
        from gulliver.search.api import search

        return search
    if name == "Budget":
        from gulliver.search.settings import Budget

        return Budget
    raise AttributeError(name)
