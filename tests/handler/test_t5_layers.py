"""What treats every row alone gives the same by a GPU's kernels, as far as a CPU has them, as by its own."""

import pytest
import torch

from handler.engines import t5_layers
from handler.engines.t5_layers import feed_forward, root_mean_square_norm
from handler.engines.torch_weights import FeedForward


@pytest.mark.parametrize(("precision", "off"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=["fp32", "bf16"])
def test_a_gpu_s_way_gives_the_cpu_s_numbers(
    precision: torch.dtype, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    hidden = (torch.randn(5, 16) * 3).to(precision)
    norm, inner, output = (torch.randn(shape).to(precision) for shape in [(16,), (32, 16), (16, 32)])

    def results() -> list[torch.Tensor]:
        return [
            root_mean_square_norm(hidden, norm, 1e-6),
            feed_forward(hidden.clone(), FeedForward(norm, inner, output), 1e-6),
        ]

    expected = results()
    monkeypatch.setattr(t5_layers, "launches", lambda _: True)
    for ours, theirs in zip(results(), expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).float().norm() <= off * theirs.float().norm()


def test_on_a_gpu_a_sum_takes_the_place_of_what_is_added_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t5_layers, "launches", lambda _: True)
    hidden = torch.ones(2, 4)
    assert t5_layers.add_linear(hidden, torch.ones(2, 3), torch.ones(4, 3)).data_ptr() == hidden.data_ptr()
    assert hidden.tolist() == [[4.0] * 4] * 2
