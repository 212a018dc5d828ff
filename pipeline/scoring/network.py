"""What the stages share that keep a network's scores."""

from typing import Any, ClassVar

import pyarrow as pa

from model.presets.networks import NETWORKS
from model.presets.preset import Preset
from model.presets.settings import revision_in
from model.weights.files import weights_bytes
from pipeline.stages.stage import Stage
from warehouse import field


class NetworkScore(Stage):
    """Keeps the columns of a network of model/presets/networks.toml."""

    network: ClassVar[str]
    upstream = ("probe", "silence")

    def __init__(self, preset: Preset) -> None:
        self.preset, self.precision = preset, preset.precision.networks
        columns = NETWORKS[self.network].columns
        self.schema = pa.schema([field(name, pa.float32(), columns[name]) for name in columns])

    @property
    def model_revision(self) -> str:
        """Content hash of the network's weights, and the precision where that is not float32."""
        revision = NETWORKS[self.network].load_class().revision(self.preset)
        return revision_in(revision, self.precision)

    @property
    def weights(self) -> int:
        """Those of the network."""
        return weights_bytes(self.preset.model(self.network))

    def setup(self) -> None:
        """Load the network."""
        self._network: Any = NETWORKS[self.network].load_class().from_pretrained(self.preset)
