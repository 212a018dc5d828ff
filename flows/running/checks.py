"""What can be known of a request before anything of it is started, or waited for."""

from typing import TYPE_CHECKING

from flows.parameters import (
    AblateParameters,
    EvaluateParameters,
    FeaturesParameters,
    ModelParameters,
    Parameters,
    ScanParameters,
    TrainParameters,
)
from flows.running.devices import chosen_devices
from warehouse.store import open_warehouse

if TYPE_CHECKING:
    from pipeline.training.checkpoints import Checkpoint


def check(parameters: Parameters) -> None:
    """Raise FoleyError for what cannot be.

    A device that is not there, a folder without clips or with a name that is another source's, a
    dataset or bridge that is not there, a bridge to start from whose layers do not fit.
    """
    chosen_devices(parameters.device_name)
    if isinstance(parameters, ScanParameters) and parameters.folder:
        from pipeline.curation import registry
        from pipeline.curation.sources import check_media

        check_media(parameters.folder)
        if parameters.home.is_dir():
            registry.check(open_warehouse(parameters.home), parameters.folder, parameters.name)
    if isinstance(parameters, FeaturesParameters | TrainParameters | AblateParameters):
        from warehouse.datasets.corpus import choose_dataset

        choose_dataset(open_warehouse(parameters.home), parameters.dataset)
    match parameters:
        case EvaluateParameters(on=None, checkpoint=name):
            _bridge(parameters, name)
        case TrainParameters(parent=str(name)):
            from pipeline.training.parent import Parent

            Parent(_bridge(parameters, name)).check(parameters.load_preset())
        case _:
            pass


def _bridge(parameters: ModelParameters, name: str | None) -> "Checkpoint":
    from pipeline.training.checkpoints import choose_checkpoint

    return choose_checkpoint(open_warehouse(parameters.home), parameters.load_preset(), name)
