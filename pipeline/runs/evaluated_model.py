"""A network to evaluate: that of a run, or external weights or code."""

import hashlib
import importlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.config.cluster import Cluster
from pipeline.config.protocol import TestProtocol
from pipeline.config.recipe import InputConfig, NetworkConfig, Recipe
from pipeline.data.store.manifest import ImageClass
from pipeline.data.store.store import Split, Store
from pipeline.evaluation.evaluation_config import EvaluationConfig
from pipeline.evaluation.predictions import PredictionMetadata
from pipeline.models.classifier import ImageClassifier
from pipeline.models.weights_file import read_saved_weights
from pipeline.models.zoo import build_model, constructor
from pipeline.pretrained.formats import read_pretrained
from pipeline.pretrained.preprocessing import Preprocessing
from pipeline.pretrained.weights_name import find_weights
from pipeline.runs.run_folder import RunFolder
from pipeline.runtime.errors import UserError
from pipeline.runtime.storage import file_digest


@dataclass(frozen=True)
class EvaluatedModel:
    """A network by its name, its weights, and the input that it takes.

    It is one of the zoo, built by `network` where a run trained it, with weights of this project's,
    or of a `weights_format` of `pretrained.formats`; or a `module`, "package.module:callable",
    imported with `module_folder` first on the path. `takes_bgr` swaps the colours. `protocol` is
    its own, and `trained_sides` the range of shorter sides that it was trained at, and `classes`
    those of its outputs, where that is known. `remarks` tell the user how it was read.
    """

    name: str
    input: InputConfig
    protocol: TestProtocol
    weights: Path | None = None
    weights_format: str = ""
    ema: bool = False
    network: NetworkConfig | None = None
    module: str = ""
    module_folder: Path = Path()
    takes_bgr: bool = False
    precision: str = "float32"
    trained_sides: tuple[int, int] | None = None
    classes: tuple[ImageClass, ...] = ()
    remarks: tuple[str, ...] = ()

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
        if self.module:
            module = _call_module(self.module, self.module_folder)
            if self.weights:
                _load_weights(module, self.weights, self.ema)
            return module
        assert self.weights
        if self.weights_format:
            return read_pretrained(
                self.weights_format, self.weights, self.name, ema=self.ema
            ).build()
        network = self.network or NetworkConfig(name=self.name, num_classes=num_classes)
        model = build_model(network, self.input)
        weights = read_saved_weights(self.weights, ema=self.ema).weights
        # As no deeper VGG does, which would start from a part of another's.
        model.start_from(ImageClassifier.taken_from(model, weights))
        return model

    def num_outputs(self, build: Callable[[], nn.Module]) -> int:
        """Return how many classes it tells apart; an external one, built, is shown a grey image.

        Raises `UserError` where it can't be built, or applied.
        """
        if self.network:
            return self.network.num_classes
        return int(self._logits_of_grey(build()).shape[1])

    def _logits_of_grey(self, model: nn.Module) -> Tensor:
        """Return the network's logits of one grey image, (1, classes), or a map of them."""
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
    *,
    ema: bool = False,
) -> EvaluatedModel:
    """Return the external network that the command names; raises `UserError`.

    weights: "FORMAT:FILE" (see `pretrained.formats`), or a FILE of this project's (safetensors, or
    torch's). network: its name in the zoo; for a module, the name to show. preprocessing: by
    default that of the weights, or else torchvision's. ema: take the moving average of the weights.
    """
    given = find_weights(weights) if weights else None
    format, file = (given.format, given.path.absolute()) if given else ("", None)
    if not module and not (file and (network or format)):
        raise UserError("give a RUN, or --weights FILE with --network NAME, or --module")
    if network and not format and not module:
        constructor(network)  # raises for a name that isn't in the zoo
    remarks: tuple[str, ...] = ()
    classes: tuple[ImageClass, ...] = ()
    if format and file and not module:
        read = read_pretrained(format, file, network, ema=ema)
        network, remarks, classes = read.network, read.remarks, read.classes
        preprocessing = preprocessing or read.preprocessing
    elif file:
        remarks = read_saved_weights(file, ema=ema).remarks
    preprocessing = preprocessing or Preprocessing()
    return EvaluatedModel(
        name=network or (module or "").replace(":", "."),
        input=preprocessing.input,
        protocol=preprocessing.protocol,
        weights=file,
        weights_format=format,
        ema=ema,
        module=module or "",
        module_folder=Path.cwd(),
        takes_bgr=preprocessing.colors == "bgr",
        classes=classes,
        remarks=remarks,
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


def _load_weights(model: nn.Module, file: Path, ema: bool) -> None:
    """Load weights into a module, whose own layers may be in one with a wrapper's name."""
    weights = read_saved_weights(file, ema=ema).weights
    own = model.state_dict()
    first = next(iter(weights), "")
    prefix = next((name.removesuffix(first) for name in own if name.endswith(f".{first}")), "")
    prefix = "" if first in own else prefix
    try:
        with torch.no_grad():
            model.load_state_dict({f"{prefix}{key}": value for key, value in weights.items()})
    except RuntimeError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())[:200]}") from None
