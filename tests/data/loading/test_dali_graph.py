"""The GPU graph is the CPU graph on another device; its definition needs no GPU."""

import itertools

import pytest
from nvidia.dali import fn, pipeline_def
from serialized_graph import Graph, Operator, parse_graph

from pipeline.config.recipe import InputConfig
from pipeline.data.loading.dali import GpuDecoder, view_graph

RGB = InputConfig(size=224, mean=(120, 110, 100), std=(60, 50, 40))
DECODER = GpuDecoder(hardware_load=0.5, height=500, width=375)
OF_GPUS = {
    "hw_decoder_load": 0.5,
    "preallocate_height_hint": 500,
    "preallocate_width_hint": 375,
    "jpeg_fancy_upsampling": 1,
}
GRAY = InputConfig(size=32, color="gray", mean=(30,), std=(70,))


def graph_of(
    device: str, input: InputConfig, fill: int | None, channels_last: bool, decoder: str = "gpu"
) -> Graph:
    graph = view_graph(
        lambda: None,
        device=device,
        input=input,
        fill=fill,
        channels_last=channels_last,
        gpu_decoder=DECODER if device == decoder == "gpu" else None,
        batch_size=8,
        num_threads=2,
        device_id=None,
    )
    return parse_graph(graph.serialize())


def steps_of(graph: Graph) -> list[Operator]:
    return [operator for operator in graph.operators if operator.kind != "ExternalSource"]


every_graph = pytest.mark.parametrize(
    ("input", "fill", "channels_last"),
    list(itertools.product((RGB, GRAY), (None, 90), (True, False))),
    ids=lambda value: value.color if isinstance(value, InputConfig) else str(value),
)


@every_graph
def test_both_devices_have_one_graph(
    input: InputConfig, fill: int | None, channels_last: bool
) -> None:
    cpu = graph_of("cpu", input, fill, channels_last)
    gpu = graph_of("gpu", input, fill, channels_last)
    assert len(cpu.operators) == len(gpu.operators)
    for on_cpu, on_gpu in zip(cpu.operators, gpu.operators, strict=True):
        assert on_cpu.kind == on_gpu.kind
        of_gpus = OF_GPUS if on_gpu.arguments["device"] == "mixed" else {}
        of_cpu = on_cpu.arguments | {"device": ""}
        assert of_cpu | of_gpus == on_gpu.arguments | {"device": ""}
        for first, second in ((on_cpu.inputs, on_gpu.inputs), (on_cpu.outputs, on_gpu.outputs)):
            assert [name for name, _ in first] == [name for name, _ in second]


@every_graph
def test_images_stay_on_the_gpu_once_decoded(
    input: InputConfig, fill: int | None, channels_last: bool
) -> None:
    graph = graph_of("gpu", input, fill, channels_last)
    decoder, *others = steps_of(graph)
    assert decoder.arguments["device"] == "mixed"
    for step in others:
        assert step.arguments["device"] == "gpu"
        images, *arguments = [device for _, device in step.inputs]
        assert images == "gpu"
        assert set(arguments) == {"cpu"}
    assert [device for _, device in graph.outputs] == ["gpu"]
    assert {device for step in steps_of(graph_of("cpu", input, fill, channels_last))
            for _, device in step.inputs + step.outputs} == {"cpu"}  # fmt: skip


@every_graph
def test_decoded_on_the_cpu_images_go_on_on_the_gpu(
    input: InputConfig, fill: int | None, channels_last: bool
) -> None:
    graph = graph_of("gpu", input, fill, channels_last, decoder="cpu")
    decoder, *others = steps_of(graph)
    assert decoder.arguments == steps_of(graph_of("cpu", input, fill, channels_last))[0].arguments
    assert {device for _, device in decoder.inputs + decoder.outputs} == {"cpu"}
    for on_gpu, step in zip(
        steps_of(graph_of("gpu", input, fill, channels_last))[1:], others, strict=True
    ):
        assert step.arguments == on_gpu.arguments
        assert [device for _, device in step.inputs] == [device for _, device in on_gpu.inputs]


def test_the_graph_is_the_one_described() -> None:
    """Also tests the parser: it reads known kinds, and arguments of every type."""
    decode, pad, resize, normalize = steps_of(graph_of("gpu", RGB, 90, True))
    assert [step.kind for step in (decode, pad, resize, normalize)] == [
        "decoders__ImageSlice",
        "Slice",
        "Resize",
        "CropMirrorNormalize",
    ]
    assert decode.arguments["adjust_orientation"] == 0
    assert decode.arguments["axis_names"] == "HW"
    assert decode.arguments["jpeg_fancy_upsampling"] == 1
    assert pad.arguments["out_of_bounds_policy"] == "pad"
    assert pad.arguments["fill_values"] == [90.0]
    assert "size" not in resize.arguments  # an input: images grow with the epochs
    assert resize.arguments["antialias"] == 1
    assert normalize.arguments["output_layout"] == "HWC"
    assert normalize.arguments["std"] == [60.0, 50.0, 40.0]
    assert [len(step.inputs) for step in (decode, pad, resize, normalize)] == [3, 3, 4, 3]


def test_without_fill_nothing_is_padded() -> None:
    graph = graph_of("gpu", RGB, None, False)
    assert [step.kind for step in steps_of(graph)] == [
        "decoders__ImageSlice",
        "Resize",
        "CropMirrorNormalize",
    ]
    assert steps_of(graph)[-1].arguments["output_layout"] == "CHW"


def test_the_parser_reads_floats_and_integers() -> None:
    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def known() -> object:
        return fn.random.uniform(range=[-1.5, 2.25], seed=12345)

    (uniform,) = steps_of(parse_graph(known().serialize()))
    assert uniform.arguments["range"] == [-1.5, 2.25]
    assert uniform.arguments["seed"] == 12345
