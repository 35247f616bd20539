import numpy as np
import pytest
from gulliver.evaluators.latency.cpu_latency_model import Coefficients, CpuLatencyModel, fit
from gulliver.evaluators.latency.kernel import ComputeKernel, KernelCall, MemoryKernel
from gulliver.evaluators.latency.kernel_table import KernelTable

TRUE = {
    "int8_scale": 1.1,
    "float_scale": 0.9,
    "seconds_per_byte": 5e-11,
    "seconds_per_weight_byte": 1e-12,
    "seconds_per_node": 2e-6,
    "seconds_per_network": 3e-5,
}


def compute(channels, precision):
    return ComputeKernel("linear", 8, channels, channels, (), (), (), (), (), 1, precision, precision)


def call(kernel):
    return KernelCall(kernel, "layer")


@pytest.fixture
def table(tmp_path):
    """Return a table in which a layer takes its channels in tenths of microseconds, in int8 a third of that."""
    share = {"int8": 1 / 3, "bfloat16": 1.0}
    return KernelTable(
        tmp_path / "table.csv", lambda kernels: {it: 1e-7 * it.in_channels * share[it.precision] for it in kernels}
    )


def network(random):
    """Return the calls of a network of random layers and passes."""
    layers = [
        call(compute(int(random.integers(64, 2048)), str(random.choice(["int8", "bfloat16"])))) for _ in range(12)
    ]
    kinds = random.choice(["add", "convert", "pool"], size=int(random.integers(1, 9)))
    return [*layers, *(call(MemoryKernel(str(kind), int(random.integers(1, 2_000_000)))) for kind in kinds)]


def test_a_fit_recovers_the_coefficients_that_made_the_times(table):
    random = np.random.default_rng(0)
    networks = [network(random) for _ in range(12)]
    truth = CpuLatencyModel(table, Coefficients(**TRUE, networks=0, mean_error=0))
    fitted = fit(networks, [1e-3 * truth.total_ms(calls) for calls in networks], table)
    for name, value in TRUE.items():
        assert getattr(fitted, name) == pytest.approx(value, rel=1e-6), name
    assert fitted.networks == 12
    assert fitted.mean_error < 1e-9


def noisily_timed(table, count, noise, seed):
    """Return networks, and their true seconds off by up to such a share."""
    random = np.random.default_rng(seed)
    networks = [network(random) for _ in range(count)]
    truth = CpuLatencyModel(table, Coefficients(**TRUE, networks=0, mean_error=0))
    return networks, [1e-3 * truth.total_ms(calls) * random.uniform(1 - noise, 1 + noise) for calls in networks]


def test_a_fit_to_noisy_times_is_never_negative_and_knows_its_error(table):
    networks, noisy = noisily_timed(table, count=10, noise=0.2, seed=1)
    fitted = fit(networks, noisy, table)
    assert all(getattr(fitted, name) >= 0 for name in TRUE)
    model = CpuLatencyModel(table, fitted)
    errors = [abs(1e-3 * model.total_ms(calls) / seconds - 1) for calls, seconds in zip(networks, noisy, strict=True)]
    assert fitted.mean_error == pytest.approx(np.mean(errors))
    assert 0.01 < fitted.mean_error < 0.2


def test_where_the_solver_misses_a_bound_by_its_last_digits_nothing_takes_less_than_no_time(table):
    # With these times it gives -2e-20 seconds a network.
    networks, noisy = noisily_timed(table, count=4, noise=0.5, seed=2)
    fitted = fit(networks, noisy, table)
    assert all(getattr(fitted, name) >= 0 for name in TRUE)


def test_one_wrong_kernel_time_does_not_make_all_kernels_of_its_precision_free(table, monkeypatch):
    random = np.random.default_rng(0)
    networks = [network(random) for _ in range(12)]
    truth = CpuLatencyModel(table, Coefficients(**TRUE, networks=0, mean_error=0))
    measured = [1e-3 * truth.total_ms(calls) for calls in networks]
    kernels = [it.kernel for calls in networks[::3] for it in calls if isinstance(it.kernel, ComputeKernel)]
    wrong = next(it for it in kernels if it.precision == "int8")
    right = table.seconds
    monkeypatch.setattr(table, "seconds", lambda kernel: (100 if kernel == wrong else 1) * right(kernel))
    fitted = fit(networks, measured, table)
    assert fitted.int8_scale == 0.5


def test_what_lies_between_two_nodes_is_at_most_20_us(table):
    random = np.random.default_rng(0)
    networks = [network(random) for _ in range(12)]
    slow = CpuLatencyModel(table, Coefficients(**TRUE | {"seconds_per_node": 1e-4}, networks=0, mean_error=0))
    assert fit(networks, [1e-3 * slow.total_ms(calls) for calls in networks], table).seconds_per_node == 2e-5


def test_weights_come_at_20_gigabytes_a_second_at_least(table):
    random = np.random.default_rng(0)
    networks = [network(random) for _ in range(12)]
    slow = CpuLatencyModel(table, Coefficients(**TRUE | {"seconds_per_weight_byte": 1e-9}, networks=0, mean_error=0))
    assert fit(networks, [1e-3 * slow.total_ms(calls) for calls in networks], table).seconds_per_weight_byte == 5e-11


def test_what_a_busy_machine_adds_to_every_inference_is_not_taken_for_the_networks_own(table):
    random = np.random.default_rng(0)
    networks = [network(random) for _ in range(12)]
    truth = CpuLatencyModel(table, Coefficients(**TRUE, networks=0, mean_error=0))
    busy = [1e-3 * truth.total_ms(calls) + 1e-3 for calls in networks]
    assert fit(networks, busy, table).seconds_per_network == pytest.approx(2e-4)
    assert fit(networks, [it + 1e-2 for it in busy], table).seconds_per_network == pytest.approx(
        0.1 * (min(busy) + 1e-2)
    )


@pytest.mark.parametrize(("mean_error", "advises"), [(0.08, False), (0.081, True)])
def test_a_poor_fit_says_so_and_what_to_do(table, mean_error, advises):
    basis = CpuLatencyModel(table, Coefficients(**TRUE, networks=13, mean_error=mean_error)).basis
    assert f"fitted to 13 measured networks with a mean error of {mean_error:.1%}" in basis
    assert ("`gulliver calibrate again=true` measures anew" in basis) == advises


def test_the_model_adds_nodes_and_the_network_by_hand(table):
    model = CpuLatencyModel(table, Coefficients(**TRUE, networks=0, mean_error=0, untouched_ms=4.0))
    calls = [
        call(compute(300, "int8")),
        call(compute(300, "bfloat16")),
        call(MemoryKernel("add", 1_000_000)),
    ]
    # 300 * 300 weights of one and of two bytes.
    seconds = [2e-6 + 1.1 * 1e-5 + 9e-8, 2e-6 + 0.9 * 3e-5 + 1.8e-7, 2e-6 + 5e-5]
    assert [model.seconds(it) for it in calls] == pytest.approx(seconds)
    told = [("", "kernel times"), ("", "kernel times"), ("memory", "fitted")]
    prices = [model.price(it) for it in calls]
    assert [(it.seconds, it.bound_by, it.mode) for it in prices] == [
        (model.seconds(it), *words) for it, words in zip(calls, told, strict=True)
    ]
    assert model.total_ms(calls) == pytest.approx(1e3 * (3e-5 + sum(seconds)))
    assert model.total_ms([]) == pytest.approx(0.03)
    assert model.untouched_ms == 4.0
