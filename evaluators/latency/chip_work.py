"""The seconds that each unit of a chip needs at its stated rate, for every stage of every kernel and every tile.

Tiles go to cores in turn, and the turn carries over from group to group: a wave that is not full costs as much as a
full one. Arrays have the shape (stages, candidates), a candidate being a tile and a split of k.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil

import numpy as np
from gulliver.evaluators.latency.chip import Chip, read_chip
from gulliver.evaluators.latency.kernel_stages import AnyKernel, Stage, conversion_bytes, ways
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CHUNK = 128
_CUBE = 16
# Columns of the narrowest tile of CANN's quant_batch_matmul_v3 (its tiling for few rows).
_NARROWEST = 64
# Rows of float16 weights in one block: the L1 tile of CATLASS's matmuls (its examples' names state 128x256x256).
_BLOCK = 256


@dataclass(frozen=True)
class Work:
    """Ideal seconds by unit: (stages, candidates), or (stages, 1) where the tile does not matter.

    `tiles` counts those of the busiest core, `load_s` is that core's traffic with L2, `pieces` are those of rows that
    it waits for, `drain_s` is what memory takes for the results of the last tiles. `many_rows` (stages, 1) is where a
    group has more than one and that matters, `in_turn` (stages, 1) is where the matrix unit waits for the vector unit,
    `blocks` are those of weights that the vector unit hands to the busiest core through memory, `widening_s` is what
    multiprocessors take to widen the weights anew for every tile of rows. `way` (stages,) is the way that a stage
    belongs to, `kernel` (ways,) the kernel that a way runs, `conversion_s` (kernels,).
    """

    matrix_s: Floats
    tiles: Floats
    load_s: Floats
    pieces: Floats
    drain_s: Floats
    memory_s: Floats
    vector_s: Floats
    vector_rows: Floats
    aligned: NDArray[np.bool_]
    many_rows: NDArray[np.bool_]
    in_turn: NDArray[np.bool_]
    blocks: Floats
    widening_s: Floats
    way: NDArray[np.int64]
    kernel: NDArray[np.int64]
    conversion_s: Floats


def work(kernels: Sequence[AnyKernel]) -> Work:
    """Return the work of kernels of any chips; raises InputError where a chip cannot run one."""
    known = [(index, way) for index, kernel in enumerate(kernels) for way in ways(kernel)]
    staged = [(number, stage) for number, (_, way) in enumerate(known) for stage in way]
    owners = np.array([index for index, _ in known])
    candidates = max((len(_candidates(read_chip(kernel.chip))) for kernel in kernels), default=1) + 1
    parts = []
    for name in sorted({kernel.chip for kernel in kernels}):
        mine = [(number, stage) for number, stage in staged if kernels[owners[number]].chip == name]
        for start in range(0, len(mine), _CHUNK):
            parts.append(_chip_work(mine[start : start + _CHUNK], read_chip(name), candidates))
    bandwidths = np.array([read_chip(kernel.chip).memory_bandwidth_bytes_per_s for kernel in kernels])
    conversion_s = np.array([conversion_bytes(kernel) for kernel in kernels]) / bandwidths
    names = [field.name for field in fields(Work) if field.name not in ("kernel", "conversion_s")]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return Work(**joined, kernel=owners, conversion_s=conversion_s)


def _candidates(chip: Chip) -> list[tuple[int, int, int]]:
    return [(*tile, split) for tile in chip.tiles for split in chip.split_k]


def _chip_work(mine: list[tuple[int, Stage]], chip: Chip, candidates: int) -> dict[str, NDArray[np.generic]]:
    listed = [stage for _, stage in mine]
    tile_m, tile_n, split = _tiles(listed, chip, candidates)
    cost = _tile_costs(listed, chip, tile_m, tile_n, split)
    return {
        **cost,
        "memory_s": _column(listed, "memory_bytes") / chip.memory_bandwidth_bytes_per_s,
        "vector_s": _column(listed, "vector_operations") / chip.vector_float16_operations_per_s,
        "vector_rows": np.ceil(_column(listed, "vector_rows") / chip.vector_cores),
        "aligned": np.array([[stage.aligned] for stage in listed]),
        "many_rows": np.array(
            [[stage.k > 0 and max(stage.group_rows) > 1 and chip.multiprocessors] for stage in listed]
        ),
        "blocks": cost["tiles"] * np.ceil(_column(listed, "k") / _BLOCK) * _column(listed, "hands_weights_over"),
        "in_turn": np.array([[stage.in_turn] for stage in listed]),
        "way": np.array([number for number, _ in mine]),
    }


def _tiles(listed: list[Stage], chip: Chip, candidates: int) -> tuple[Floats, Floats, Floats]:
    """Return rows, columns and k split of each candidate's tile; a tile that the notes state is the only one."""
    known = _candidates(chip)
    padded = known + known[:1] * (candidates - 1 - len(known))
    offered = [
        [(*stage.tile, 1)] * candidates if stage.tile else [*padded, (*_even_tile(stage, chip), 1)] for stage in listed
    ]
    tiles = np.array(offered, dtype=float)
    return tiles[..., 0], tiles[..., 1], tiles[..., 2]


def _even_tile(stage: Stage, chip: Chip) -> tuple[int, int]:
    """Return the tile that deals the columns of few rows evenly to the cores, or else the chip's first.

    It has room for as many rows as are few, so that fewer never take a tile that more could not.
    """
    if not 0 < max(stage.group_rows) <= chip.few_rows:
        return chip.tiles[0]
    used = sum(rows > 0 for rows in stage.group_rows)
    widest = max(rows * width for rows, width in chip.tiles) // chip.few_rows
    # A tile ends where its group does.
    turns = ceil(used * ceil(stage.n / widest) / chip.matrix_cores)
    across = turns * chip.matrix_cores // used
    wide = ceil(stage.n / across / _CUBE) * _CUBE
    return chip.few_rows, min(max(wide, _NARROWEST), widest)


def _tile_costs(listed: list[Stage], chip: Chip, tile_m: Floats, tile_n: Floats, split: Floats) -> dict[str, Floats]:
    """Return the busiest core's seconds in the matrix unit and in loads, and its number of tiles."""
    across = np.ceil(np.maximum(_column(listed, "n"), 1) / tile_n) * split
    down = np.ceil(_group_rows(listed)[..., None] / tile_m[:, None])
    tiles = down * (across * (_column(listed, "k") > 0))[:, None]
    cycles = _cycles(listed, chip, tile_m, tile_n, split)
    moved = _moved_bytes(listed, tile_m, tile_n, split)
    busiest = _busiest_core(tiles, np.stack([np.ones_like(tiles), cycles, moved]), chip.matrix_cores)
    return {
        "tiles": busiest[0],
        "matrix_s": busiest[1] / chip.clock_hz,
        "load_s": busiest[2] * chip.matrix_cores / chip.l2_bandwidth_bytes_per_s,
        "widening_s": down.sum(1) * _column(listed, "widening_operations") / chip.vector_float16_operations_per_s,
        "pieces": _pieces(listed, chip, down, across, tile_m, tile_n),
        "drain_s": _last_results(listed, chip, tiles.sum(1), tile_m, tile_n) / chip.memory_bandwidth_bytes_per_s,
    }


def _cycles(listed: list[Stage], chip: Chip, tile_m: Floats, tile_n: Floats, split: Floats) -> Floats:
    """Return a tile's cycles (stages, groups, candidates): those of a full one where its group has one."""
    macs = np.array([[chip.macs_per_cycle(stage.precision)] for stage in listed], dtype=float)
    rows = np.minimum(tile_m[:, None], _group_rows(listed)[..., None])
    high = np.ceil(rows * _column(listed, "row_factor")[:, None] / _CUBE)
    wide = np.ceil(np.minimum(tile_n, _column(listed, "n")) / _CUBE)
    deep = np.ceil(_column(listed, "k") * _column(listed, "density") / split / (macs / _CUBE**2))
    return np.asarray(high * (wide * deep)[:, None])


def _moved_bytes(listed: list[Stage], tile_m: Floats, tile_n: Floats, split: Floats) -> Floats:
    """Return a tile's traffic with L2 in bytes (stages, groups, candidates)."""
    high = np.minimum(tile_m[:, None], np.ceil(_group_rows(listed) / _CUBE)[..., None] * _CUBE)
    wide = np.minimum(tile_n, np.ceil(_column(listed, "n") / _CUBE) * _CUBE)[:, None]
    deep = (_column(listed, "k") / split)[:, None]
    activations, weights = _column(listed, "activation_bytes")[:, None], _column(listed, "weight_bytes")[:, None]
    # A split of k writes and reads partial sums, four bytes each.
    result_bytes = (np.where(split > 1, 8.0, 0.0) + _column(listed, "spill_bytes"))[:, None]
    return np.asarray((high * activations + wide * weights) * deep + high * wide * result_bytes)


def _pieces(listed: list[Stage], chip: Chip, down: Floats, across: Floats, tile_m: Floats, tile_n: Floats) -> Floats:
    """Return the pieces of rows that a core waits for (stages, candidates).

    Rows of k are loaded one by one, columns of k as rows of it; what lies as the cube takes it has no pieces. A core
    waits for the weights of its first tile; of all others it loads its part, and finds the rest in L2.
    """
    if chip.load_piece_bytes == 0:
        return np.zeros_like(tile_m)
    deep, width = _column(listed, "k"), _column(listed, "weight_bytes")
    wide = np.minimum(tile_n, _column(listed, "n"))
    by_rows = deep * np.ceil(wide * width / chip.load_piece_bytes) * _lies(listed, 1, "rows")
    by_columns = wide * np.ceil(deep * width / chip.load_piece_bytes) * _lies(listed, 1, "columns")
    of_row = np.ceil(deep * _column(listed, "activation_bytes") / chip.load_piece_bytes) * _lies(listed, 0, "rows")
    high = np.minimum(tile_m, _group_rows(listed).max(1)[:, None])
    weight_tiles = np.maximum(1, (down > 0).sum(1) * across / chip.matrix_cores)
    activation_tiles = down.sum(1) / chip.matrix_cores
    return np.asarray(weight_tiles * (by_rows + by_columns) + activation_tiles * high * of_row)


def _lies(listed: list[Stage], operand: int, layout: str) -> NDArray[np.bool_]:
    return np.array([[stage.layouts[operand] == layout] for stage in listed])


def _last_results(listed: list[Stage], chip: Chip, tiles: Floats, tile_m: Floats, tile_n: Floats) -> Floats:
    """Return the bytes of results that nothing is left to hide (stages, candidates): those of each core's last tile."""
    if chip.multiprocessors:
        return np.zeros_like(tiles)
    rows, n = _group_rows(listed), _column(listed, "n")
    full = np.minimum(tile_m, rows.max(1)[:, None]) * np.minimum(tile_n, n)
    # Tiles at the edges are smaller, but there are no more results than all.
    results = np.minimum(np.minimum(tiles, chip.matrix_cores) * full, rows.sum(1)[:, None] * n)
    return np.asarray(results * _column(listed, "output_bytes"))


def _busiest_core(tiles: Floats, costs: Floats, cores: int) -> Floats:
    """Return the largest sum over cores of costs (kinds, stages, groups, candidates): (kinds, stages, candidates)."""
    used = np.broadcast_to(tiles > 0, costs.shape)
    largest = np.max(costs, 2, where=used, initial=0.0)
    smallest = np.min(costs, 2, where=used, initial=np.inf)
    busiest = np.asarray(np.ceil(tiles.sum(1) / cores) * largest)
    # Where all groups have equal tiles, the core with the most tiles is the busiest; elsewhere they are dealt out.
    unequal = np.any((smallest < np.inf) & ~np.isclose(smallest, largest), axis=(0, 2))
    for stage in np.flatnonzero(unequal):
        busiest[:, stage] = _walk(tiles[stage], costs[:, stage], cores)
    return busiest


def _walk(tiles: Floats, costs: Floats, cores: int) -> Floats:
    """Deal the groups' tiles (groups, candidates) to the cores in turn and return the largest load of each kind."""
    before = np.cumsum(tiles, 0) - tiles
    position = (np.arange(cores)[:, None, None] - before) % cores
    share = tiles // cores + (position < tiles % cores)
    return np.asarray(np.einsum("cgt,kgt->ckt", share, costs).max(0))


def _group_rows(listed: list[Stage]) -> Floats:
    longest = max(len(stage.group_rows) for stage in listed)
    rows = np.zeros((len(listed), longest))
    for index, stage in enumerate(listed):
        rows[index, : len(stage.group_rows)] = stage.group_rows
    return rows


def _column(listed: list[Stage], name: str) -> Floats:
    return np.array([[float(getattr(stage, name))] for stage in listed])
