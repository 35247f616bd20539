"""A recipe as a table to read."""

from collections.abc import Iterator

from gulliver.spaces.recipe import LayerRecipe, Recipe

_HEADINGS = ("layer", "removed", "rank", "weights", "inputs", "fallback")


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
    """Return what is removed, the rank and kind of split, weights, inputs with their calibrator, and the fallback."""
    removed = f"{choice.sparsify.ratio:.0%}" if choice.sparsify else "-"
    split, bits = choice.decompose, choice.quantize
    rank = " ".join([split.kind] * (split.kind != "svd") + [str(split.rank)]) if split else "-"
    weights = f"int{bits.weight_bits}" if bits else "float"
    calibrator = [bits.calibrator] if bits and bits.calibrator != "min_max" else []
    inputs = " ".join([f"int{bits.activation_bits}" if bits else "float", *calibrator])
    return removed, rank, weights, inputs, choice.fallback or ""


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
