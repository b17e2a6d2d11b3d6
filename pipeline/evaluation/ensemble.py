"""Ensembles: averaged probabilities of several networks (VGG §4.4, GoogLeNet §7, ResNet §3.4)."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from pipeline.evaluation.predictions import NUM_GUESSES, PredictionMetadata, Predictions
from pipeline.evaluation.significance import refuse_other_images
from pipeline.evaluation.topk import label_ranks, topk_classes
from pipeline.runtime.errors import UserError

_ROWS_AT_ONCE = 4096


def ensemble(
    members: Sequence[Predictions],
    weights: Sequence[float] | None = None,
    protocol: str | None = None,
) -> Predictions:
    """Average the members' probabilities, by `weights` that are then made to add up to 1.

    Each member's are averaged over the views of an image already, so that the result is that of one
    joint forward pass, but for the rounding of stored probabilities to float16. `protocol` names
    what members of different sizes have in common ("dense-3-scales"). Raises `UserError` if images,
    labels or classes differ, a member comes twice, or the weights are invalid.
    """
    if len(members) < 2:
        raise UserError("an ensemble has at least two members")
    first = members[0]
    for other in members[1:]:
        refuse_other_images(first, other)
        if other.probabilities.shape != first.probabilities.shape:
            raise UserError(
                f"{other.metadata.run} tells other classes apart than {first.metadata.run}"
            )
    _refuse_repeats([member.metadata for member in members])
    shares = np.asarray(weights or [1.0] * len(members))
    is_weight = np.isfinite(shares) & (shares >= 0)
    if len(shares) != len(members) or not is_weight.all() or not shares.any():
        raise UserError(f"--weights: {len(members)} numbers of 0 or more are needed, one a member")
    shares = shares / shares.sum()
    probabilities = np.empty(first.probabilities.shape, np.float16)
    ranks = np.empty(len(first), np.int32)
    guesses = np.empty(first.guesses.shape, np.int32)
    for start in range(0, len(first), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        scores = torch.zeros(first.probabilities[rows].shape)
        for member, share in zip(members, shares.tolist(), strict=True):
            scores += share * torch.from_numpy(member.probabilities[rows].astype(np.float32))
        labels = torch.from_numpy(first.labels[rows].copy())
        probabilities[rows] = scores.numpy()
        ranks[rows] = label_ranks(scores, labels).numpy()
        guesses[rows] = topk_classes(scores, NUM_GUESSES).numpy()
    return Predictions(
        keys=first.keys,
        labels=first.labels,
        probabilities=probabilities,
        ranks=ranks,
        guesses=guesses,
        classes=first.classes,
        metadata=_metadata([member.metadata for member in members], shares.tolist(), protocol),
    )


def _refuse_repeats(members: Sequence[PredictionMetadata]) -> None:
    runs: dict[tuple[str, str], str] = {}
    for member in members:
        key = member.weights_digest, member.protocol
        if key in runs:
            raise UserError(
                f"{runs[key]} and {member.run} are the same network by the same protocol; name it "
                "once, and give it more of --weights"
            )
        runs[key] = member.run


def _metadata(
    members: Sequence[PredictionMetadata], shares: Sequence[float], protocol: str | None
) -> PredictionMetadata:
    """Return the metadata of an ensemble; values that differ between members are joined by +."""
    equal = len(set(shares)) == 1
    names = [
        member.run if equal else f"{share:.4g} × {member.run}"
        for member, share in zip(members, shares, strict=True)
    ]
    keys = [f"{member.weights_digest} {member.protocol}" for member in members]
    digest = hashlib.sha256("\n".join([*keys, *names]).encode()).hexdigest()
    # One network by two protocols is one network.
    sizes = {member.weights_digest: member.ensemble_size for member in members}
    is_one = len({member.protocol for member in members}) == 1
    protocols = protocol or ""
    if is_one or protocol is None:
        protocols = _joined(member.protocol for member in members)
    return members[0].model_copy(
        update={
            "network": _network_names({member.network for member in members}),
            "training_data": _joined(member.training_data for member in members),
            "training_digest": _joined(m.training_digest for m in members if m.training_digest),
            "protocol": protocols if equal else f"{protocols}-weighted",
            "extra_data": _joined(member.extra_data for member in members),
            "precision": _joined(member.precision for member in members if member.precision),
            "weights_digest": digest,
            "run": f"ensemble-{digest[:8]}",
            "ensemble_size": sum(sizes.values()),
            "members": tuple(names),
        }
    )


def _joined(values: Iterable[str]) -> str:
    return "+".join(sorted(set(values)))


def _network_names(names: set[str]) -> str:
    """Join the networks' names as those of published ensembles are."""
    *others, last = sorted(names, key=lambda name: name.replace("_", " "))  # vgg_c before vgg16
    if len(others) == 1:
        return f"{others[0]} and {last}"
    return ", ".join([*others, last])
