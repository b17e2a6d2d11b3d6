"""The GPU's kernels without a GPU: run by Triton's interpreter, and compiled for what is sold."""

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.interpreter import InterpretedFunction

from pipeline.models import response_norm_kernel
from pipeline.models.response_norm import ResponseNorm

_KERNELS = ("normalize_kernel", "gradient_kernel")


@pytest.fixture
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _KERNELS:
        compiled = getattr(response_norm_kernel, name)
        monkeypatch.setattr(response_norm_kernel, name, InterpretedFunction(compiled.fn))


@pytest.mark.usefixtures("_interpreted")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "size"), [(1, 5), (2, 5), (7, 5), (3, 3), (40, 5)])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2**-7)]
)
def test_values_and_gradients_equal_those_of_the_operations(
    channels: int, size: int, layout: torch.memory_format, dtype: torch.dtype, rtol: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, channels, 5, 3)  # 600 values an image at most: more than a block
    a, g = torch.randn(2, *shape, generator=generator, dtype=torch.float64).mul(5).to(dtype)
    a = a.contiguous(memory_format=layout).requires_grad_()
    expected = ResponseNorm(size, alpha=0.1, k=2.0)(a)
    expected.backward(g)
    arguments = (size // 2, 0.1 / size, 2.0)
    values = response_norm_kernel.normalized(a.detach(), *arguments)
    gradient = response_norm_kernel.gradient_of(a.detach(), g, *arguments)
    assert values.stride() == gradient.stride() == a.stride()
    torch.testing.assert_close(values, expected, rtol=rtol, atol=rtol)
    torch.testing.assert_close(gradient, a.grad, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("capability", [80, 90])  # A100, H100
@pytest.mark.parametrize(("name", "loads"), [("normalize_kernel", 5), ("gradient_kernel", 9 + 5)])
def test_a_gpus_kernel_loads_each_value_once(name: str, loads: int, capability: int) -> None:
    kernel = getattr(response_norm_kernel, name)
    tensors = kernel.arg_names[: kernel.arg_names.index("channels")]
    integers = ("channels", "stride", "size", "blocks")
    constants = {"scale": 2e-5, "k": 2.0, "reach": 2, "wide": tl.float32, "block": 512}
    signature = (
        dict.fromkeys(tensors, "*bf16")
        | dict.fromkeys(integers, "i32")
        | dict.fromkeys(constants, "constexpr")
    )
    source = ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]
    assert compiled.asm["ttir"].count("tt.load") == loads
