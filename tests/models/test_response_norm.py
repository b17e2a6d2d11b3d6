"""Response normalization against its formula, PyTorch's own, and numeric gradients."""

import io
import warnings

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.alexnet import alexnet
from pipeline.models.response_norm import ResponseNorm, SameMapNorm


def noise(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def pytorch_norm(size: int, alpha: float, k: float) -> nn.Module:
    return nn.LocalResponseNorm(size, alpha=alpha, beta=0.75, k=k)


def test_values_equal_the_formula() -> None:
    a = noise(1, 6, 1, 1, scale=10, dtype=torch.float64)
    got = ResponseNorm(size=5, alpha=0.3, k=2.0)(a).flatten()
    values = a.flatten().tolist()
    for i, value in enumerate(values):
        window = values[max(0, i - 2) : i + 3]
        expected = value / (2.0 + 0.3 / 5 * sum(v * v for v in window)) ** 0.75
        assert got[i].item() == pytest.approx(expected, rel=1e-12)


def test_values_within_a_map_equal_the_formula() -> None:
    a = noise(1, 2, 4, 3, scale=10, dtype=torch.float64)
    got = SameMapNorm(size=3, alpha=0.3, k=1.0)(a)
    for channel, y, x in ((0, 0, 0), (1, 2, 1), (0, 3, 2)):
        window = a[0, channel, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        expected = a[0, channel, y, x] / (1.0 + 0.3 / 9 * (window**2).sum()) ** 0.75
        assert got[0, channel, y, x].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 16])
@pytest.mark.parametrize(("size", "alpha", "k"), [(5, 1e-4, 2.0), (5, 1.0, 1.0), (3, 0.1, 1.0)])
def test_values_and_gradients_equal_pytorchs(
    channels: int, size: int, alpha: float, k: float
) -> None:
    ours = noise(2, channels, 4, 3, scale=5).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    got = ResponseNorm(size, alpha, k)(ours)
    expected = pytorch_norm(size, alpha, k)(theirs)
    weights = noise(*got.shape)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_without_gradients_the_values_are_the_same_and_can_be_traced() -> None:
    norm, images = ResponseNorm(size=5, alpha=0.5, k=2.0), noise(2, 7, 3, 2, scale=3)
    expected = norm(images)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated
        assert torch.equal(norm(images), expected)
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(norm, images[:1]), file)
        file.seek(0)
        torch.testing.assert_close(torch.jit.load(file)(images), expected)


def test_gradients_equal_finite_differences() -> None:
    a = noise(2, 7, 2, 2, scale=3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(ResponseNorm(size=5, alpha=0.5, k=2.0), a)


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_gradients_equal_finite_differences_in_channels_last(channels: int) -> None:
    a = noise(2, channels, 2, 2, scale=3, dtype=torch.float64)
    a = a.to(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(ResponseNorm(size=5, alpha=0.5, k=2.0), a)


def test_only_the_inputs_are_kept_for_the_backward_pass() -> None:
    a = noise(2, 7, 4, 4).requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ResponseNorm()(a)
    (saved,) = kept
    assert saved.data_ptr() == a.data_ptr()


def test_the_memory_format_is_kept() -> None:
    a = noise(2, 8, 4, 4, scale=20)
    norm = ResponseNorm(alpha=0.1)
    got = norm(a.to(memory_format=torch.channels_last))
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, norm(a), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    # The squares of these don't fit float16.
    ours = noise(2, 16, 4, 4, scale=300, dtype=dtype).requires_grad_()
    exact = ours.detach().float().requires_grad_()
    norm = ResponseNorm()
    with torch.autocast("cpu", torch.bfloat16):
        got = norm(ours)
    expected = norm(exact)
    assert got.dtype == dtype
    assert torch.equal(got, expected.to(dtype))
    got.backward(torch.ones_like(got))
    expected.backward(torch.ones_like(expected))
    assert ours.grad is not None
    assert exact.grad is not None
    assert torch.equal(ours.grad, exact.grad.to(dtype))


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        ResponseNorm(size=4)


# `inductor` is what torch.compile uses, and calls a C++ compiler; `aot_eager` only traces.
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiling_keeps_values_and_gradients(backend: str) -> None:
    ours = noise(2, 16, 5, 5, scale=20).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    norm = ResponseNorm(alpha=0.1)
    expected = norm(ours)
    got = torch.compile(norm, backend=backend, fullgraph=True)(theirs)
    got.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-5, atol=1e-6)


def test_alexnet_is_traced_whole() -> None:
    torch.manual_seed(0)
    network = alexnet(10).eval()  # without dropout, whose masks are drawn in another order
    images = noise(2, 3, 224, 224)
    expected = network(images)
    expected.square().sum().backward()
    gradients = [weights.grad for weights in network.parameters()]
    network.zero_grad(set_to_none=True)
    got = torch.compile(network, backend="aot_eager", fullgraph=True)(images)
    got.square().sum().backward()
    torch.testing.assert_close(got, expected)
    for weights, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(weights.grad, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 3, 96])
def test_values_on_a_gpu_equal_those_on_a_cpu(channels: int, layout: torch.memory_format) -> None:
    norm = ResponseNorm(alpha=0.1)
    for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2**-7)):
        a = noise(2, channels, 8, 9, scale=30, dtype=dtype).contiguous(memory_format=layout)
        ours, theirs = a.clone().requires_grad_(), a.cuda().requires_grad_()
        weights = noise(*a.shape, dtype=dtype)
        expected, got = norm(ours), norm(theirs)
        expected.backward(weights)
        got.backward(weights.cuda())
        assert got.stride() == a.stride()
        torch.testing.assert_close(got.cpu(), expected, rtol=rtol, atol=rtol)
        assert theirs.grad is not None
        torch.testing.assert_close(theirs.grad.cpu(), ours.grad, rtol=rtol, atol=rtol)
