"""The identity of the machine that a number was measured on."""

import hashlib
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """A processor's name, its number of usable cores, its instruction sets, and OpenVINO's version."""

    processor: str
    cores: int
    features: str
    openvino: str

    @property
    def key(self) -> str:
        """Return 12 hexadecimal digits that differ where measured times may."""
        identity = f"{self.processor}|{self.cores}|{self.features}|{self.openvino}"
        return hashlib.sha256(identity.encode()).hexdigest()[:12]


def this_machine() -> Machine:
    """Return the identity of the machine that this runs on."""
    facts = _processor_facts()
    wanted = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "bf16"}
    features = " ".join(sorted(wanted & set(facts.get("flags", facts.get("Features", "")).split())))
    name = f"{facts.get('model name', platform.processor() or platform.machine())} {facts.get('model', '')}".strip()
    return Machine(name, len(os.sched_getaffinity(0)), features, version("openvino"))


def _processor_facts() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
