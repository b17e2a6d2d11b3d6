"""The picture of images and what they are taken for."""

import io

from PIL import Image

from pipeline.data.store.image_check import treat_image
from pipeline.data.store.packing import Sample
from pipeline.evaluation.guesses import Answer, Guess
from pipeline.reports.figure_style import as_png
from pipeline.reports.prediction_figure import prediction_figure


def sample(name: str) -> Sample:
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG")
    return treat_image(file.getvalue(), name, -1)


def test_a_picture_says_what_was_asked_and_answered() -> None:
    guesses = (Guess(1, None, "palace", 0.75), Guess(0, None, "a$b $ or so, " + 40 * "x", 0.25))
    answer = Answer("resnet18", "ten-crop-72-64", "0123456789abcdef", guesses)
    figure = prediction_figure(
        [(sample(f"folder/{k}.jpg"), answer) for k in range(4)], "trained on photos; 2026-01-02"
    )
    assert figure.get_suptitle() == "resnet18, weights 01234567, ten-crop-72-64"
    assert figure.get_supxlabel() == "trained on photos; 2026-01-02"
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    bars = [axes for axes in figure.axes if axes.patches]
    assert len(bars) == 4
    for axes in bars:
        assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25]  # type: ignore[attr-defined]
        first, second = (text.get_text() for text in axes.texts)
        assert first == "palace  75.0 %"
        assert second.endswith("x…  25.0 %")
    assert as_png(figure).startswith(b"\x89PNG")  # also with signs that begin formulas
