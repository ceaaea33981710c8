"""The meter of decode attention: what it reports, and what it refuses to measure."""

import pytest

from pikojax.cli.main import main
from pikojax.config import UserError
from pikojax.kernels.measure_attention import measure


def test_the_measurement_reports_speed_and_error():
    found = measure("int8", slots=80, rows=2, heads=4, kv_heads=2, width=64, threads=1, buffer_bytes=1 << 20)
    assert found["cache_bytes"] == 2 * 80 * 2 * (64 + 2)
    assert found["gb_per_s"] == pytest.approx(found["cache_bytes"] / found["call_s"] / 1e9)
    assert 0 < found["nmse_kernel"] < 5e-4 and found["nmse_kernel"] < found["nmse"] < 1e-3
    assert found["read_bandwidth_gb_per_s"] > 0 and found["gop_per_s"] > 0 and found["threads"] == 1


@pytest.mark.parametrize("wrong", [["--rows", "0"], ["--cache", "int9"], ["--heads", "6", "--kv-heads", "4"], ["lightllm"]])
def test_the_command_refuses_what_it_cannot_measure(wrong, capsys):
    assert main(["bench", "attention", *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("slots, rows, most", [(64, 17, 16), (8, 9, 8)])
def test_more_rows_than_a_decode_step_has_are_not_measured(slots, rows, most):
    with pytest.raises(UserError, match=f"--rows {rows}; give at most {most}"):
        measure("int8", slots, rows, 4, 2, 64)
