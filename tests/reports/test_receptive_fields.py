from pipeline.models.summary import summarize_model
from pipeline.reports.receptive_fields import growing_fields, receptive_field_figure


def test_fields_grow_by_the_arithmetic_of_convolutions_to_that_of_the_last_map() -> None:
    fields = growing_fields(summarize_model("alexnet").profile)
    # conv1, pool1, conv2, pool2, conv3, conv4, conv5, pool5, by hand (Dumoulin & Visin 2016).
    assert fields == [1, 11, 19, 51, 67, 99, 131, 163, 195]
    for name in ("googlenet", "resnet34"):
        profile = summarize_model(name).profile
        fields = growing_fields(profile)
        assert fields == sorted(fields)
        assert fields[-1] == max(profile.receptive_field)


def test_every_network_has_a_line_and_every_input_size_one() -> None:
    figure = receptive_field_figure([summarize_model(name) for name in ("lenet5", "alexnet")])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "lenet5: 32 pixels",
        "alexnet: 195 pixels",
    ]
    assert [text.get_text().strip() for text in axes.texts] == ["input: 32", "input: 224"]
