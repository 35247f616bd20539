"""Every method on thirteen classic networks at FashionMNIST scale: python -m benchmarks.amct.classic_networks.

Parts: `int8` after training and NNCF's with the same calibration inputs; `channels`, 30% of them gone, fine-tuned;
`sparsity` and `decomposition`, channels and ranks alone by the search, fine-tuned; `joint`, the search over all
methods; `int4_qat`, 4-bit weights and activations in training, always with the same effort. Choices are made on the
calibration inputs and the search split; what counts is the test split. Accuracies and latencies are those of the
exported networks in OpenVINO (batch 32, one thread), all of a network in turns in one process, medians of CPU time.
This CPU has no 4-bit convolution, so `int4_qat` is simulated, and has no latency. Runs are kept in the cache, and only
missing ones are made; latencies are measured anew. Writes benchmarks/results/classic_networks.csv, and what it says of
each goal on this machine to classic_networks_goals.csv; rows of other networks and machines stay.
"""

import argparse
from importlib.metadata import version

import torch

from benchmarks.amct.classic_goals import goals
from benchmarks.amct.classic_judging import judge
from benchmarks.amct.classic_parts import PARTS, Effort
from benchmarks.amct.classic_runs import Run, find_run, run_part
from benchmarks.amct.classic_tasks import NETWORKS, ClassicNetwork
from benchmarks.record import machine, names_among, read_table, write_table

TABLE = "classic_networks"


def main() -> None:
    """Make the missing runs part by part, measure all that there are, and write both tables."""
    given = _arguments()
    torch.set_num_threads(1)
    effort = Effort(given.epochs, given.batches, given.trials, given.finalists)
    tasks = {network: ClassicNetwork(network) for network in given.networks}
    for part in dict.fromkeys(("original", *given.parts)):
        for network, task in tasks.items():
            _say(run_part(network, task, part, effort))
    rows = []
    for task in tasks.values():
        rows += judge(task, [run for part in PARTS if (run := find_run(task, part, effort))])
    versions = {name: version(name) for name in ("torch", "openvino")}
    write_table(TABLE, rows, versions, key=("network", "machine"))
    here = [line for line in read_table(TABLE) if line["machine"] == machine()]
    write_table(f"{TABLE}_goals", goals(here), versions, key=("claim", "machine"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, values in (("networks", NETWORKS), ("parts", PARTS)):
        parser.add_argument(f"--{name}", type=names_among(values), default=list(values), help=",".join(values))
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning of one network")
    parser.add_argument("--batches", type=int, default=150, help="of 128 images, an epoch")
    parser.add_argument("--trials", type=int, default=12, help="of a search")
    parser.add_argument("--finalists", type=int, default=3, help="of a search")
    return parser.parse_args()


def _say(run: Run) -> None:
    print(f"{run.network}, {run.part}: {run.error or run.note} ({run.cpu_seconds:.0f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()
