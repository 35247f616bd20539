"""What the table of the classic networks says of each goal, over the networks that have the rows for it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean

SINGLES = ("int8", "channels", "sparsity", "decomposition")
MAX_DROP = 0.005
FLOAT = "bfloat16"

Line = Mapping[str, str]
Network = Mapping[tuple[str, str], Line]


@dataclass(frozen=True)
class Goal:
    """One claim: its value over so many networks, what is asked for, whether it is met, and the least of them."""

    claim: str
    networks: int
    value: float
    goal: str
    met: bool
    worst: str


def goals(lines: Iterable[Line]) -> list[Goal]:
    """Return every goal that any network has the rows for."""
    networks = by_network(lines)
    return [goal for claim in _CLAIMS if (goal := claim(networks)) is not None]


def by_network(lines: Iterable[Line]) -> Mapping[str, Network]:
    """Return each network's rows that have an accuracy, by part and by the type of the floating-point layers."""
    found: dict[str, dict[tuple[str, str], Line]] = {}
    for line in lines:
        if line["accuracy_test"]:
            found.setdefault(line["network"], {})[line["part"], line["float_type"]] = line
    return found


def best_single(network: Network) -> Line:
    """Return the fastest single method within the drop on the search split, the original where there is none."""
    fp32 = float(network["original", "float32"]["accuracy_search"])
    candidates = [network[part, FLOAT] for part in SINGLES if (part, FLOAT) in network]
    within = [it for it in candidates if round(fp32 - float(it["accuracy_search"]), 9) <= MAX_DROP]
    return min([network["original", FLOAT], *within], key=lambda it: float(it["latency_ms"]))


def fastest(network: Network, part: str) -> Line:
    """Return the faster one of a part's rows, which differ in the type of the floating-point layers."""
    return min((line for (name, _), line in network.items() if name == part), key=lambda it: float(it["latency_ms"]))


def _values(
    networks: Mapping[str, Network], parts: Sequence[str], value: Callable[[Network], float]
) -> dict[str, float]:
    complete = {name: it for name, it in networks.items() if {part for part, _ in it}.issuperset(parts)}
    return {name: value(it) for name, it in complete.items()}


def _drop(part: str, float_type: str, most: float) -> Callable[[Mapping[str, Network]], Goal | None]:
    def claim(networks: Mapping[str, Network]) -> Goal | None:
        drops = _values(networks, [part], lambda it: float(it[part, float_type]["drop_points"]))
        if not drops:
            return None
        worst = max(drops, key=lambda it: drops[it])
        within = sum(it <= most for it in drops.values())
        return Goal(
            f"{part}: networks that lose at most so many points on the test split",
            len(drops),
            within,
            f"<= {most} for all",
            within == len(drops),
            f"{worst} loses {drops[worst]:.2f}",
        )

    return claim


def _mean(
    words: str,
    parts: Sequence[str],
    value: Callable[[Network], float],
    least: float,
    mean: Callable[[Iterable[float]], float],
) -> Callable[[Mapping[str, Network]], Goal | None]:
    def claim(networks: Mapping[str, Network]) -> Goal | None:
        values = _values(networks, parts, value)
        if not values:
            return None
        average, worst = mean(values.values()), min(values, key=lambda it: values[it])
        return Goal(
            words, len(values), round(average, 4), f">= {least}", average >= least, f"{worst} {values[worst]:.4f}"
        )

    return claim


def _ms(line: Line) -> float:
    return float(line["latency_ms"])


_CLAIMS: tuple[Callable[[Mapping[str, Network]], Goal | None], ...] = (
    _mean(
        "decomposition: mean share of the measured time that is saved, over bf16",
        ["decomposition"],
        lambda it: 1 - 1 / float(it["decomposition", FLOAT]["speedup_over_bf16"]),
        0.30,
        fmean,
    ),
    _mean(
        "decomposition: mean share of the size that is saved, over 16-bit weights",
        ["decomposition"],
        lambda it: 1 - float(it["decomposition", FLOAT]["size_share"]),
        0.45,
        fmean,
    ),
    _drop("decomposition", FLOAT, 0.5),
    _drop("int8", FLOAT, 0.5),
    _mean(
        "int8: mean accuracy on the test split less that of NNCF's, points",
        ["int8", "nncf_int8"],
        lambda it: float(it["nncf_int8", FLOAT]["drop_points"]) - float(it["int8", FLOAT]["drop_points"]),
        0.0,
        fmean,
    ),
    _mean(
        "int8: geometric mean of NNCF's time over ours, each with the faster float type",
        ["int8", "nncf_int8"],
        lambda it: _ms(fastest(it, "nncf_int8")) / _ms(fastest(it, "int8")),
        1.0,
        geometric_mean,
    ),
    _drop("channels", FLOAT, 0.5),
    _mean(
        "joint: geometric mean of the best single method's time over the joint search's",
        ["joint", "int8", "channels", "decomposition"],
        lambda it: _ms(best_single(it)) / _ms(it["joint", FLOAT]),
        1.5,
        geometric_mean,
    ),
    _drop("joint", FLOAT, 0.5),
    _drop("int4_qat", "", 1.0),
)
