"""What a search may choose for a network on a target, layer by layer, and the ranks that its weights suggest."""

from collections.abc import Iterable, Iterator, Sequence

from gulliver.compressors.compress import Original, read_original
from gulliver.compressors.layer_inputs import CompressibleLayer
from gulliver.compressors.ranks import suggest_ranks
from gulliver.evaluators.latency.target import Target
from gulliver.spaces.layer_graph import ChannelGroup, Layer
from gulliver.spaces.shapes import all_channels
from gulliver.spaces.space import Space
from gulliver.spaces.space_options import SpaceOptions
from gulliver.tasks.protocol import Task

_ENERGY = 0.9
_HEADINGS = (
    "layer",
    "kind",
    "weights",
    "precisions",
    "channels",
    "pattern",
    "ranks",
    f"{_ENERGY:.0%} energy",
    "not noise",
)
_EXPLANATION = (
    f"`{_ENERGY:.0%} energy` and `not noise` are ranks that the weights alone suggest for the first kind of split:",
    f"what keeps {_ENERGY:.0%} of their squares, and what variational Bayes tells from noise. All ranks are multiples",
    "of what the target likes.",
)


def show_space(task: Task, target: Target, options: SpaceOptions) -> str:
    """Return the space of a search as lines of text: the choices of each layer, what is not offered, and why.

    Raises InputError where the options allow nothing that the target runs.
    """
    original = read_original(task)
    space = Space(original.graph, target.capabilities, options)
    title = (
        f"{task.name} on {target.name}: {len(original.graph.layers)} layers, {len(space.dimensions)} choices to make"
    )
    rows = [_HEADINGS, *_rows(original, space, target.capabilities.small_channel_multiple)]
    return "\n".join([title, "", *_aligned(rows), "", *_EXPLANATION, *_notes(space)])


def _rows(original: Original, space: Space, multiple: int) -> Iterator[tuple[str, ...]]:
    groups = {name: group for group in original.graph.channel_groups for name in group.layers}
    for name, layer in original.graph.layers.items():
        precisions = (f"w{it.weight_bits}a{it.activation_bits}" for it in space.ladders.precisions(layer))
        cells = (layer.kind, f"{layer.weight_count:,}", _listed(precisions), _channels(groups.get(name), layer, space))
        pattern = "2:4" if space.ladders.may_be_semi_structured(layer) else "-"
        yield name, *cells, pattern, *_ranks(original, layer, space, multiple)


def _channels(group: ChannelGroup | None, layer: Layer, space: Space) -> str:
    """Return how many channels there are, and the fewest that may be left."""
    ratios = (0.0,) if group is None else space.ladders.ratios(group)
    least = round(layer.out_channels * (1 - max(ratios)))
    return f"{layer.out_channels}" if len(ratios) == 1 else f"{layer.out_channels} to {least}"


def _ranks(original: Original, layer: Layer, space: Space, multiple: int) -> tuple[str, str, str]:
    """Return the ranks that are offered, and what the weights suggest, by energy and by variational Bayes."""
    offered = [it for it in space.ladders.splits(layer, all_channels(layer)) if it is not None]
    if not offered:
        return "-", "-", "-"
    module, kind = original.task.model.get_submodule(layer.name), offered[0].kind
    assert isinstance(module, CompressibleLayer)
    by_energy, by_noise = map(str, suggest_ranks(module, (_ENERGY, None), kind, multiple))
    return _listed(str(it.rank) for it in offered), by_energy, by_noise


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words)) or "-"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    layer, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, *cells in rows:
        yield "  ".join([f"{name:{layer}}", *(f"{it:>{width}}" for it, width in zip(cells, widths, strict=True))])


def _notes(space: Space) -> Iterator[str]:
    if space.ladders.notes:
        yield ""
        yield from space.ladders.notes
