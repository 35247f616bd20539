import os
from dataclasses import replace
from importlib.metadata import version

from gulliver.evaluators.latency.machine import Machine, this_machine


def test_this_machine_is_the_same_each_time():
    machine = this_machine()
    assert machine == this_machine()
    assert machine.processor
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.openvino == version("openvino")
    assert machine.features == " ".join(sorted(machine.features.split()))


def test_the_key_differs_where_any_fact_does():
    machine = this_machine()
    others = [
        replace(machine, processor="another"),
        replace(machine, cores=machine.cores + 1),
        replace(machine, features="avx2 amx_int8"),
        replace(machine, openvino="0"),
    ]
    keys = {machine.key, *(other.key for other in others)}
    assert len(keys) == 5


def test_the_key_never_changes_as_measured_times_are_found_by_it():
    # printf 'Zen 5|2|avx2 avx512_vnni|2026.4' | sha256sum
    assert Machine("Zen 5", 2, "avx2 avx512_vnni", "2026.4").key == "66c99a0057c7"
