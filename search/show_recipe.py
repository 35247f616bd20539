"""A recipe as a table to read."""

from collections.abc import Iterator

from gulliver.spaces.recipe import LayerRecipe, Recipe


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
    width = max(len("layer"), *(len(name) for name in recipe.layers))
    yield f"{'layer':{width}}  {'removed':>8}  {'rank':>5}  {'weights':>8}  {'inputs':>8}  fallback"
    for name, choice in recipe.layers.items():
        yield f"{name:{width}}  {_choice(choice)}"


def _choice(choice: LayerRecipe) -> str:
    removed = f"{choice.sparsify.ratio:.0%}" if choice.sparsify else "-"
    rank = str(choice.decompose.rank) if choice.decompose else "-"
    bits = choice.quantize
    weights, inputs = (f"int{bits.weight_bits}", f"int{bits.activation_bits}") if bits else ("float", "float")
    return f"{removed:>8}  {rank:>5}  {weights:>8}  {inputs:>8}  {choice.fallback or ''}".rstrip()


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
