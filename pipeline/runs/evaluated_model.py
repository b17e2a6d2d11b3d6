"""A network to evaluate: that of a run, or external weights or code."""

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from pipeline.config.cluster import Cluster
from pipeline.config.protocol import CenterCrop, TestProtocol
from pipeline.config.recipe import InputConfig, NetworkConfig, Recipe
from pipeline.config.yaml import Section
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.store import Split, Store
from pipeline.evaluation.evaluation_config import EvaluationConfig
from pipeline.evaluation.predictions import PredictionMetadata
from pipeline.models.classifier import ImageClassifier
from pipeline.models.torchvision_weights import load_torchvision
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model, constructor
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_digest


class Preprocessing(Section):
    """The preprocessing that an external network expects; the defaults are torchvision's.

    The shorter side is resized to `resize` (with `squash`, both sides), then the centre square of
    `crop` is cut; pixels from 0 to `value_range`, in the order `colors`, become `(pixel - mean) /
    std`. Mean and std are in that range and that order.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)
    colors: Literal["rgb", "bgr", "gray"] = "rgb"
    value_range: Literal[1, 255] = 1
    resize: PositiveInt = 256
    crop: PositiveInt = 224
    squash: bool = False

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        channels = 1 if self.colors == "gray" else 3
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std need {channels} values each for {self.colors}")
        return self

    @property
    def input(self) -> InputConfig:
        """The same as a recipe's input: red first, in grey levels of 0 to 255."""
        scale, order = 255 / self.value_range, -1 if self.colors == "bgr" else 1
        return InputConfig(
            size=self.crop,
            color="gray" if self.colors == "gray" else "rgb",
            mean=tuple(scale * value for value in self.mean[::order]),
            std=tuple(scale * value for value in self.std[::order]),
        )

    @property
    def protocol(self) -> CenterCrop:
        if self.resize < self.crop:
            raise UserError(f"preprocessing: resize ({self.resize}) is smaller than crop")
        return CenterCrop(resize=self.resize, squash=self.squash)


# See `models.torchvision_weights`.
_TORCHVISIONS_INCEPTION = Preprocessing(
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize=342, crop=299
)


@dataclass(frozen=True)
class EvaluatedModel:
    """A network by its name and kind, its weights, and the input that it takes.

    A "zoo" network is this project's, built by `network` where a run trained it. A "module",
    "package.module:callable", is imported with `module_folder` first on the path. `takes_bgr` swaps
    the colours. `protocol` is its own, and `trained_sides` the range of shorter sides that it was
    trained at, and `classes` those of its outputs, where that is known.
    """

    name: str
    kind: Literal["zoo", "torchvision", "module"]
    input: InputConfig
    protocol: TestProtocol
    weights: Path | None = None
    network: NetworkConfig | None = None
    module: str = ""
    module_folder: Path = Path()
    takes_bgr: bool = False
    precision: str = "float32"
    trained_sides: tuple[int, int] | None = None
    classes: tuple[ImageClass, ...] = ()

    def evaluation_config(
        self,
        split: Split,
        protocol: TestProtocol,
        cluster: Cluster,
        outputs: tuple[int, ...] | None = None,
    ) -> EvaluationConfig:
        """Return how it is evaluated on a split, by a protocol, on a cluster's workers."""
        return EvaluationConfig(
            split=split,
            protocol=protocol,
            input=self.input,
            precision=self.precision,
            loading=cluster.loading,
            channels_last=cluster.channels_last,
            takes_bgr=self.takes_bgr,
            outputs=outputs,
        )

    def build(self, num_classes: int) -> nn.Module:
        """Build the network for `num_classes` with its weights, on the CPU.

        Raises `UserError` where they don't fit.
        """
        if self.kind == "module":
            module = _call_module(self.module, self.module_folder)
            if self.weights:
                _load_weights(module, self.weights)
            return module
        assert self.weights
        if self.kind == "torchvision":
            return load_torchvision(self.name, self.weights)
        network = self.network or NetworkConfig(name=self.name, num_classes=num_classes)
        model = build_model(network, self.input)
        # Not `model.start_from`: a deeper VGG's takes a part of them only.
        ImageClassifier.start_from(model, read_weights(self.weights))
        return model

    def num_outputs(self, build: Callable[[], nn.Module]) -> int:
        """Return how many classes it tells apart; an external one, built, is shown a grey image.

        Raises `UserError` where it can't be built, or applied.
        """
        if self.network:
            return self.network.num_classes
        return int(self._logits_of_grey(build()).shape[-1])

    def _logits_of_grey(self, model: nn.Module) -> Tensor:
        """Return the network's logits of one grey image, (1, classes)."""
        shape = (self.input.num_channels, self.input.size, self.input.size)
        try:
            with torch.inference_mode():
                logits = model.eval()(torch.zeros(1, *shape))
        except Exception as error:  # It may be the user's own code.
            raise UserError(
                f"{self.name} can't see a picture of {'×'.join(map(str, shape))}: "
                f"{_error_line(error)}; declare what it takes with --preprocessing"
            ) from error
        if not isinstance(logits, Tensor):
            raise UserError(
                f"{self.name} returns a {type(logits).__name__}; have it return a tensor of "
                "scores, a row an image"
            )
        return logits

    def weights_digest(self) -> str:
        """Return the SHA-256 of the weights' file, or of the weights that a module comes with."""
        if self.weights:
            return file_digest(self.weights)
        digest = hashlib.sha256()
        for name, value in _call_module(self.module, self.module_folder).state_dict().items():
            # As bytes, since NumPy has no bfloat16.
            values = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(name.encode() + values.numpy().tobytes())
        return digest.hexdigest()

    def external_folder(self, runs_dir: Path) -> RunFolder:
        """Return the folder for the predictions of an external network, named by its weights."""
        return RunFolder(runs_dir / f"{self.name}-{self.weights_digest()[:8]}")

    def prediction_metadata(
        self,
        folder: RunFolder,
        store: Store,
        split: str,
        protocol: TestProtocol,
        protocol_suffix: str = "",
    ) -> PredictionMetadata:
        """Return the metadata of predictions on a split of `store`, which are stored in `folder`.

        An external network's training data are unknown; they are taken to be those of `store`.
        """
        record = folder.record()
        training_digest = record.dataset_digest if record else ""
        training_data = store.name
        if record and training_digest not in ("", store.digest):
            training_data = record.dataset_name or folder.recipe().data.name
        return PredictionMetadata(
            network=self.name,
            training_data=training_data,
            training_digest=training_digest,
            data=store.name,
            data_digest=store.digest,
            split=split,
            protocol=protocol.name(self.input.size) + protocol_suffix,
            weights_digest=self.weights_digest(),
            run=folder.name,
            extra_data=record.extra_data if record else "none",
            precision=self.precision,
        )


def model_of_run(folder: RunFolder) -> EvaluatedModel:
    """Return the network that a run trained; raises `UserError` if it isn't trained yet."""
    record = folder.trained_record()
    return replace(model_of_recipe(folder.recipe(), folder.weights), classes=record.classes)


def model_of_recipe(recipe: Recipe, weights: Path) -> EvaluatedModel:
    """Return the network of a recipe, with the file where its weights are, or will be."""
    return EvaluatedModel(
        name=recipe.network.name,
        kind="zoo",
        input=recipe.input,
        protocol=recipe.evaluation,
        weights=weights,
        network=recipe.network,
        precision=recipe.precision,
        trained_sides=recipe.augmentation.trained_sides,
    )


def external_model(
    weights: str | None,
    network: str | None,
    module: str | None,
    preprocessing: Preprocessing | None,
) -> EvaluatedModel:
    """Return the external network that the command names; raises `UserError`.

    weights: "torchvision:FILE", or a FILE of this project's (safetensors, or torch's). network: its
    name in the zoo; for a module, the name to show. preprocessing: by default that of torchvision's
    weights of the network.
    """
    prefix, _, path = (weights or "").rpartition(":")
    if prefix not in ("", "torchvision"):
        raise UserError(f"--weights {weights}: write torchvision:FILE, or a FILE of this project's")
    file = Path(path).absolute() if path else None
    if file and not file.is_file():
        raise UserError(f"--weights {weights}: no such file")
    if not module and not (file and network):
        raise UserError("give a RUN, or --weights FILE with --network NAME, or --module")
    if network and not module:
        constructor(network)  # raises for a name that isn't in the zoo
    if preprocessing is None:
        is_inception = network == "inception_v3" and not module
        preprocessing = _TORCHVISIONS_INCEPTION if is_inception else Preprocessing()
    return EvaluatedModel(
        name=network or (module or "").replace(":", "."),
        kind="module" if module else "torchvision" if prefix else "zoo",
        input=preprocessing.input,
        protocol=preprocessing.protocol,
        weights=file,
        module=module or "",
        module_folder=Path.cwd(),
        takes_bgr=preprocessing.colors == "bgr",
    )


def _call_module(module: str, folder: Path) -> nn.Module:
    """Import "package.module:callable" and call it without arguments."""
    name, _, attribute = module.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--module {module}: write package.module:callable ({error})") from None
    except Exception as error:  # It is the user's own code.
        raise UserError(f"--module {module}: {_error_line(error)}") from error
    try:
        model = found()
    except Exception as error:
        raise UserError(f"--module {module}: {_error_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"--module {module}: returns a {type(model).__name__}, not an nn.Module")
    return model.eval()


def _error_line(error: Exception) -> str:
    """Return in one line what was raised, and the last place outside of torch and of this file."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    ignored = (__file__, f"{Path(torch.__file__).parent}/")
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(ignored):
            place = f" ({frame.filename}, line {frame.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _load_weights(model: nn.Module, file: Path) -> None:
    try:
        with torch.no_grad():
            model.load_state_dict(read_weights(file))
    except RuntimeError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())[:200]}") from None
