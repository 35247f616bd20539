import pytest
from gulliver.evaluators.latency.published_kernel import PublishedKernel

from benchmarks.latency_model_bound import least_error


def matmul(m, n, time_us, operation="quant_matmul"):
    return PublishedKernel("ascend_910b2", operation, "int8", "int8", (m,), m, n, 256, "", time_us)


def test_more_work_in_half_the_time_costs_half_of_the_longer_time():
    # Both at 10 us: 10 / 20 - 1 for one of two rows.
    assert least_error([matmul(16, 256, 20.0), matmul(32, 256, 10.0)]) == pytest.approx(0.25)


def test_times_that_grow_or_cannot_be_compared_cost_nothing():
    grows = [matmul(16, 256, 10.0), matmul(32, 256, 20.0)]
    narrower = [matmul(16, 512, 20.0), matmul(32, 256, 10.0)]
    other_family = [matmul(16, 256, 20.0), matmul(32, 256, 10.0, "catlass_quant_matmul")]
    for kernels in (grows, narrower, other_family):
        assert least_error(kernels) == pytest.approx(0.0, abs=1e-9)
