"""Parameters of the flows: what a person may set, its limits, and what it means.

This is said once: the forms in Prefect's UI and the options of the commands are made of it.
"""

# pyright: reportUnusedImport=false
from flows.parameters.corpus import (
    CurateParameters,
    DownloadParameters,
    FeaturesParameters,
    HealthParameters,
    MaintainParameters,
    ReleaseParameters,
    RetryParameters,
    ScanParameters,
    ScoreParameters,
    SelectParameters,
    StagesParameters,
)
from flows.parameters.shared import (
    GPU_STAGES,
    MACHINE,
    BatchParameters,
    ModelParameters,
    Parameters,
    SharedOutParameters,
)
from flows.parameters.sounds import EvaluateParameters, GenerateParameters, SystemFolder
from flows.parameters.training import AblateParameters, DemoParameters, TrainParameters
