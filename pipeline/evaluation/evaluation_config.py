"""What is evaluated on, and how."""

from dataclasses import dataclass

from pipeline.config.cluster import LoadingConfig
from pipeline.config.protocol import TestProtocol
from pipeline.config.recipe import InputConfig
from pipeline.data.store.store import Split


@dataclass(frozen=True)
class EvaluationConfig:
    """A split as a network's `input` takes it, evaluated by a protocol.

    `takes_bgr` gives the network blue first. `shift` displaces every box of crops to the right and
    down, in pixels of the input: a deliberate fault, for trials of the preprocessing. `outputs` are
    the network's that count, in the order of the predictions' classes; None: all, as they are.
    """

    split: Split
    protocol: TestProtocol
    input: InputConfig
    precision: str
    loading: LoadingConfig
    channels_last: bool
    takes_bgr: bool = False
    shift: float = 0.0
    outputs: tuple[int, ...] | None = None

    @property
    def protocol_name(self) -> str:
        return self.protocol.name(self.input.size)

    @property
    def averages_logits(self) -> bool:
        """Whether logits are averaged over views, not probabilities; so are those of one view."""
        return self.protocol.num_views == 1 or self.protocol.average == "logits"
