"""Stored predictions are read and scored as they were written, or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_predictions import METADATA, predictions_of

from pipeline.evaluation.predictions import (
    Predictions,
    find_predictions,
    predictions_file,
    read_predictions,
    write_predictions,
)
from pipeline.evaluation.topk import label_ranks, topk_classes, topk_hits
from pipeline.runtime.errors import UserError


def predictions() -> Predictions:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(40, 12, generator=generator)
    return predictions_of(scores, torch.randint(12, (40,), generator=generator))


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = predictions_file(tmp_path, "val", "whole")
    before = predictions()
    write_predictions(before, path)
    after = read_predictions(path)
    assert (after.keys, after.classes, after.metadata) == (before.keys, before.classes, METADATA)
    for name in ("labels", "probabilities", "ranks", "guesses"):
        one, other = getattr(before, name), getattr(after, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert after.digest == before.digest
    assert not after.probabilities.flags.writeable  # mapped, not copied
    assert path.relative_to(tmp_path) == Path("predictions/val.whole.safetensors")


def test_an_older_file_of_int16_is_read(tmp_path: Path) -> None:
    """As they were written before there could be more than 32,767 classes."""
    some = predictions()
    short = {name: getattr(some, name).astype(np.int16) for name in ("ranks", "guesses")}
    write_predictions(replace(some, **short), tmp_path / "old.safetensors")
    old = read_predictions(tmp_path / "old.safetensors")
    assert old.ranks.dtype == np.int16
    assert old.counts == some.counts
    assert np.array_equal(old.guesses, some.guesses)


def test_hits_from_ranks_are_those_from_scores() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(4, (200, 9), generator=generator).float()  # ties are the rule
    labels = torch.randint(9, (200,), generator=generator)
    ranks, guesses = label_ranks(scores, labels), topk_classes(scores, 9)
    for k in range(1, 10):
        assert ((ranks < k) == (guesses[:, :k] == labels[:, None]).any(1)).all()
    assert [(ranks < 1).sum(), (ranks < 5).sum()] == topk_hits(scores, labels).tolist()


def test_equal_rounded_probabilities_keep_their_ranks() -> None:
    scores = torch.tensor([[0.0, 40.0, 5.0, 4.0]])  # float16 has 0 for the chances of all but one
    assert (scores.softmax(1).half()[0, [0, 2, 3]] == 0).all()
    label = torch.tensor([2])
    assert label_ranks(scores, label).tolist() == [1]
    assert topk_classes(scores, 5).tolist() == [[1, 2, 3, 0]]


def test_unknown_labels_are_not_scored() -> None:
    some = predictions()
    unknown = replace(some, labels=np.full_like(some.labels, -1))
    with pytest.raises(UserError, match=r"val of ilsvrc2012.*submission"):
        _ = unknown.counts
    assert some.counts.images == 40
    assert label_ranks(torch.eye(3), torch.tensor([-1, 1, 0])).tolist() == [3, 0, 1]


@pytest.mark.parametrize("place", [-1, -500, 20])
def test_one_changed_byte_is_refused(tmp_path: Path, place: int) -> None:
    path = tmp_path / "some.safetensors"
    write_predictions(predictions(), path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        read_predictions(path)


def test_a_file_without_predictions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    with pytest.raises(UserError, match="ilsvrc evaluate"):
        read_predictions(path)
    for content in (b"", b"short", b"\x10" + b"\0" * 7 + b"{}              ", bytes(4000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="can't be read as predictions"):
            read_predictions(path)


def test_the_only_file_is_found_and_several_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no predictions of any split by any protocol"):
        find_predictions(tmp_path, None, None)
    for protocol in ("whole", "flip-256-224"):
        write_predictions(predictions(), predictions_file(tmp_path, "val", protocol))
    with pytest.raises(UserError, match=r"val\.flip-256-224, val\.whole"):
        find_predictions(tmp_path, "val", None)
    usual = predictions_file(tmp_path, "val", "whole")
    assert find_predictions(tmp_path, None, None, preferred=usual) == usual
    flip = find_predictions(tmp_path, None, "flip-256-224", preferred=usual)
    assert flip == predictions_file(tmp_path, "val", "flip-256-224")
    with pytest.raises(UserError, match="several predictions"):
        find_predictions(
            tmp_path, None, None, preferred=predictions_file(tmp_path, "val", "center")
        )
    found = find_predictions(tmp_path, None, "whole")
    assert found == predictions_file(tmp_path, "val", "whole")
    with pytest.raises(UserError, match="no predictions of test"):
        find_predictions(tmp_path, "test", "whole")
    foreign = predictions_file(tmp_path, "my.photos.val", "whole")
    write_predictions(predictions(), foreign)
    assert find_predictions(tmp_path, "val", "whole") == found
    assert find_predictions(tmp_path, "my.photos.val", None) == foreign
    found.unlink()
    assert find_predictions(tmp_path, "val", "whole") == foreign


def test_a_split_of_other_data_is_qualified_by_their_name() -> None:
    def described(**changed: str) -> tuple[bool, str]:
        metadata = METADATA.model_copy(update=changed)
        return metadata.is_foreign, metadata.qualified_split

    assert described(training_digest="d" * 64) == (False, "val")
    assert described(training_digest="e" * 64) == (True, "ilsvrc2012.val")
    assert described() == (False, "ilsvrc2012.val")  # the training data are unknown
    assert described(data="photos") == (True, "photos.val")
    assert described(training_digest="d" * 64, data="a copy") == (False, "val")
