"""Suggestions for misspelt names."""

from pipeline.runtime.names import suggest


def test_the_closest_name_comes_first_and_then_all() -> None:
    known = ["batch", "epochs", "seed"]
    assert suggest("epoch", known) == "did you mean `epochs`? there are: batch, epochs, seed"
    assert suggest("schedule", known) == "there are: batch, epochs, seed"
    assert suggest("epochs", []) == "there are: none"
