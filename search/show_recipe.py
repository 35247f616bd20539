"""A recipe as a table to read."""

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from gulliver.spaces.recipe import Decompose, LayerRecipe, Quantize, Recipe, Sparsify

_HEADINGS = ("layer", "sparsity", "rank", "weights", "inputs", "fallback")
_BITS = ("weight_bits", "activation_bits")
_OF_INPUTS = ("calibrator", "symmetric")


def show_recipe(recipe: Recipe) -> str:
    """Return the recipe as lines of text: what it was found for, then a line for each layer."""
    return "\n".join([*_header(recipe), "", *_table(recipe)])


def _header(recipe: Recipe) -> Iterator[str]:
    found_for = recipe.found_for
    yield f"recipe {recipe.key}"
    for name in ("network", "task", "target", "seed"):
        if (value := getattr(found_for, name)) is not None:
            yield f"  {name:10} {value}"
    for name in ("settings", "predicted", "measured", "versions"):
        entries = ", ".join(f"{key} {_number(value)}" for key, value in getattr(found_for, name).items())
        if entries:
            yield f"  {name:10} {entries}"
    if recipe.finetune is not None:
        settings = vars(recipe.finetune).items()
        yield f"  {'finetune':10} {', '.join(f'{key} {_number(value)}' for key, value in settings)}"


def _table(recipe: Recipe) -> Iterator[str]:
    rows = [_HEADINGS, *((name, *_choice(choice)) for name, choice in recipe.layers.items())]
    layer, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, *cells, fallback in rows:
        columns = (f"{cell:>{max(width, 8)}}" for cell, width in zip(cells, widths, strict=False))
        yield "  ".join([f"{name:{layer}}", *columns, fallback]).rstrip()


def _choice(choice: LayerRecipe) -> tuple[str, ...]:
    """Return the sparsity, the rank, weights and inputs, each with what is not the usual, and the fallback."""
    return _sparsity(choice.sparsify), _rank(choice.decompose), *_bits(choice.quantize), choice.fallback or ""


def _sparsity(choice: Sparsify | None) -> str:
    return _after_kind(f"{choice.ratio:.0%}", choice) if choice else "-"


def _rank(choice: Decompose | None) -> str:
    return _after_kind(str(choice.rank), choice) if choice else "-"


def _after_kind(amount: str, choice: Sparsify | Decompose) -> str:
    unusual = _unusual(choice)
    kind = unusual.pop("kind", "")
    return " ".join(filter(None, [kind, amount, *unusual.values()]))


def _bits(choice: Quantize | None) -> tuple[str, str]:
    """Return how weights and inputs are held; those of weights in groups stay in floating point."""
    if choice is None:
        return "float", "float"
    unusual = {name: word for name, word in _unusual(choice).items() if name not in _BITS}
    of_inputs = [unusual.pop(name) for name in _OF_INPUTS if name in unusual]
    held = "float" if choice.group_size else f"int{choice.activation_bits}"
    return " ".join([f"int{choice.weight_bits}", *unusual.values()]), " ".join([held, *of_inputs])


def _unusual(choice: Any) -> dict[str, str]:
    """Return in words the fields that are not at their defaults, of those that have one."""
    values = ((it, getattr(choice, it.name)) for it in fields(choice))
    return {it.name: _word(it.name, value) for it, value in values if it.default not in (MISSING, value)}


def _word(name: str, value: object) -> str:
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return value if isinstance(value, str) else f"{name}={_number(value)}"


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
