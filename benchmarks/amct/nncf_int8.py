"""NNCF's int8, in an environment of its own: python nncf_int8.py IR CALIBRATION.npy OUT, the inputs in batches."""

import sys

import nncf
import numpy as np
import openvino


def main(source: str, calibration: str, out: str) -> None:
    """Quantize with NNCF's defaults for a CPU."""
    dataset = nncf.Dataset(list(np.load(calibration)))
    model = openvino.Core().read_model(source)
    quantized = nncf.quantize(model, dataset, target_device=nncf.TargetDevice.CPU)
    openvino.save_model(quantized, out, compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
