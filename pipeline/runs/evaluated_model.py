"""A network to evaluate: a run's, or one whose weights come from elsewhere."""

import hashlib
import importlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from pipeline.config.cluster import Cluster
from pipeline.config.protocol import CenterCrop, TestProtocol
from pipeline.config.recipe import InputConfig, NetworkConfig, Recipe
from pipeline.config.yaml import Section
from pipeline.data.store.store import Split
from pipeline.evaluation.evaluate import EvaluationConfig
from pipeline.models.classifier import ImageClassifier
from pipeline.models.torchvision_weights import load_torchvision
from pipeline.models.weights_file import read_weights
from pipeline.models.zoo import build_model, constructor
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError

Origin = Literal["zoo", "torchvision", "module"]


class Preprocessing(Section):
    """What a network from elsewhere was made to see; the defaults are torchvision's.

    Shorter side to `resize` (with `squash`, both), then the centre square of `crop`; pixels from 0
    to `value_range`, in the order `colors`, become `(pixel - mean) / std`. Mean and std are in that
    range and that order.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)
    colors: Literal["rgb", "bgr", "gray"] = "rgb"
    value_range: Literal[1, 255] = 1
    resize: PositiveInt = 256
    crop: PositiveInt = 224
    squash: bool = False

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        channels = 1 if self.colors == "gray" else 3
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std need {channels} values each for {self.colors}")
        return self

    @property
    def input(self) -> InputConfig:
        """The same as a recipe says it: red first, in grey levels of 0 to 255."""
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


@dataclass(frozen=True)
class EvaluatedModel:
    """The network by its name, its weights, and what it takes.

    `network` says how a run built it. `module`, "package.module:callable", is imported with
    `module_folder` first on the path. `takes_bgr` swaps the colours. `protocol` is its own, and
    `trained_sides` the range of shorter sides it trained at, where that is known.
    """

    name: str
    origin: Origin
    input: InputConfig
    protocol: TestProtocol
    weights: Path | None = None
    network: NetworkConfig | None = None
    module: str = ""
    module_folder: Path = Path()
    takes_bgr: bool = False
    precision: str = "float32"
    trained_sides: tuple[int, int] | None = None

    def setting(self, split: Split, protocol: TestProtocol, cluster: Cluster) -> EvaluationConfig:
        """Say how it is evaluated on a split, by a protocol, on a cluster's workers."""
        return EvaluationConfig(
            split=split,
            protocol=protocol,
            input=self.input,
            precision=self.precision,
            loading=cluster.loading,
            channels_last=cluster.channels_last,
            takes_bgr=self.takes_bgr,
        )

    def build(self, num_classes: int) -> nn.Module:
        """Build the network for `num_classes` with its weights, on the CPU.

        Raises `UserError` where they don't fit.
        """
        if self.origin == "torchvision":
            assert self.weights
            return load_torchvision(self.name, self.weights)
        if self.origin == "module":
            model = _called(self.module, self.module_folder)
            if self.weights:
                _load(model, self.weights)
            return model
        network = self.network or NetworkConfig(name=self.name, num_classes=num_classes)
        assert self.weights
        own = build_model(network, self.input)
        # All of them: a deeper VGG would start from a part.
        ImageClassifier.start_from(own, read_weights(self.weights))
        return own

    def refuse_unfit(self, num_classes: int, built: nn.Module | None = None) -> None:
        """Raise `UserError` where the network can't be built, or tells other classes apart.

        One from elsewhere is built, unless it is `built` already, and shown one grey picture.
        """
        if self.network:
            found = self.network.num_classes
        else:
            found = self._shown_grey(built or self.build(num_classes)).shape[-1]
        if found != num_classes:
            raise UserError(
                f"{self.name} tells {found} classes apart, the data set has {num_classes}; name "
                "another with --data"
            )

    def _shown_grey(self, model: nn.Module) -> Tensor:
        """Return what the network says of one grey picture, (1, classes)."""
        shape = (self.input.num_channels, self.input.size, self.input.size)
        try:
            with torch.inference_mode():
                logits = model.eval()(torch.zeros(1, *shape))
        except Exception as error:  # It may be the user's own code.
            raise UserError(
                f"{self.name} can't see a picture of {'×'.join(map(str, shape))}: "
                f"{_explained(error)}; declare what it takes with --preprocessing"
            ) from error
        if not isinstance(logits, Tensor):
            raise UserError(
                f"{self.name} returns a {type(logits).__name__}; have it return a tensor of "
                "scores, a row an image"
            )
        return logits

    def weights_digest(self) -> str:
        """Return the SHA-256 of the file of weights, or of the weights that a module came with."""
        if self.weights:
            with self.weights.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for name, value in _called(self.module, self.module_folder).state_dict().items():
            # As bytes, since NumPy has no bfloat16.
            values = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(name.encode() + values.numpy().tobytes())
        return digest.hexdigest()


def model_of_run(folder: RunFolder) -> EvaluatedModel:
    """Return the network that a run trained; raises `UserError` for one that isn't trained yet."""
    folder.trained_record()
    return model_of_recipe(folder.recipe(), folder.weights)


def model_of_recipe(recipe: Recipe, weights: Path) -> EvaluatedModel:
    """Return the network of a recipe, whose weights are, or will be, in the file."""
    return EvaluatedModel(
        name=recipe.network.name,
        origin="zoo",
        input=recipe.input,
        protocol=recipe.evaluation,
        weights=weights,
        network=recipe.network,
        precision=recipe.precision,
        trained_sides=recipe.augmentation.trained_sides,
    )


def external_model(
    weights: str | None, network: str | None, module: str | None, given: Preprocessing | None
) -> EvaluatedModel:
    """Return the network that the command names.

    weights: "torchvision:FILE", or a FILE of this project's (safetensors, or torch's). network: its
    name in the zoo; of a module, what to call it. given: its preprocessing, by default as
    torchvision's weights of that network have it. Raises `UserError`.
    """
    prefix, _, path = (weights or "").rpartition(":")
    if prefix not in ("", "torchvision"):
        raise UserError(f"--weights {weights}: write torchvision:FILE, or a FILE of this project's")
    file = Path(path).absolute() if path else None
    if file and not file.is_file():
        raise UserError(f"--weights {weights}: no such file")
    if module:
        seen = given or Preprocessing()
        name = network or module.replace(":", ".")
        origin: Origin = "module"
    elif file and network:
        seen = given or _torchvisions(network)
        name, origin = network, "torchvision" if prefix else "zoo"
        constructor(name)
    else:
        raise UserError("give a RUN, or --weights FILE with --network NAME, or --module")
    return EvaluatedModel(
        name=name,
        origin=origin,
        input=seen.input,
        protocol=seen.protocol,
        weights=file,
        module=module or "",
        module_folder=Path.cwd(),
        takes_bgr=seen.colors == "bgr",
    )


def _torchvisions(network: str) -> Preprocessing:
    """Return the preprocessing of torchvision's weights, see `models.torchvision_weights`."""
    if network == "inception_v3":
        half = (0.5, 0.5, 0.5)
        return Preprocessing(mean=half, std=half, resize=342, crop=299)
    return Preprocessing()


def _called(module: str, folder: Path) -> nn.Module:
    """Import "package.module:callable" and call it without arguments."""
    name, _, attribute = module.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--module {module}: write package.module:callable ({error})") from None
    except Exception as error:  # It is the user's own code.
        raise UserError(f"--module {module}: {_explained(error)}") from error
    try:
        model = found()
    except Exception as error:
        raise UserError(f"--module {module}: {_explained(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"--module {module}: returns a {type(model).__name__}, not an nn.Module")
    return model.eval()


def _explained(error: Exception) -> str:
    """Say in one line what was raised, and where: last outside of torch, and of this file."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    inside = (__file__, f"{Path(torch.__file__).parent}/")
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith(inside):
            place = f" ({frame.filename}, line {frame.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _load(model: nn.Module, file: Path) -> None:
    try:
        with torch.no_grad():
            model.load_state_dict(read_weights(file))
    except RuntimeError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())[:200]}") from None
