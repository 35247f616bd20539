"""Times on a GPU: CUDA events around a replayed graph, with nothing of it left in L2, taking turns."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

WARM_UP = 5
# Several times the L2 of any card here, so that weights come from memory as they do in a network.
FLUSH_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Times:
    """Milliseconds of repetitions: the median, and between which eight of ten lie."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    repetitions: int


def summarize(times_ms: Sequence[float]) -> Times:
    """Return median, tenth and ninetieth percentile of at least two times."""
    deciles = statistics.quantiles(times_ms, n=10, method="inclusive")
    return Times(statistics.median(times_ms), deciles[0], deciles[-1], len(times_ms))


def capture(run: Callable[[], object]) -> Callable[[], None]:
    """Return `run` as a CUDA graph's replay, so that no launch waits for Python; it must not wait for the GPU."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def time_in_turns(runs: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, Times]:
    """Time each of `runs` once a round, so that a slow moment of the card falls on all."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in runs}
    for _ in range(WARM_UP + repetitions):
        for name, run in runs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush.zero_()
            start.record()
            run()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: summarize([s.elapsed_time(e) for s, e in pairs[WARM_UP:]]) for name, pairs in events.items()}
