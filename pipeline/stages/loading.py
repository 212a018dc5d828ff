"""Models of stages: loaded once a process, and let go when a stage is done."""

import gc
import sys
import threading

from pipeline.stages.stage import Stage

_setting_up = threading.Lock()
_loaded: dict[str, Stage] = {}  # by fingerprint; one at most, because models are large


def set_up(stage: Stage, fingerprint: str) -> Stage:
    """The stage with its models loaded.

    A copy that came from another process with a task takes over the models of the copy before it,
    so that a worker loads them once and not once a batch.
    """
    with _setting_up:
        if "_before_setup" in vars(stage):
            return stage
        travelled = vars(stage).get("_travelled", False)
        if travelled and fingerprint in _loaded:
            return _loaded[fingerprint]
        if travelled:
            _loaded.clear()
        vars(stage)["_before_setup"] = {*vars(stage), "_travelled"}
        if not travelled:
            gc.freeze()  # until it is let go
        try:
            stage.setup()
        except BaseException:
            del vars(stage)["_before_setup"]
            gc.unfreeze()
            raise
        if travelled:
            _loaded[fingerprint] = stage
        return stage


def let_go(stage: Stage) -> None:
    """Forget the models of a stage that is done, so that the next has the memory."""
    with _setting_up:
        before = vars(stage).pop("_before_setup", None)
        if before is None:
            return
        models = vars(stage).keys() - before
        for name in models:
            del vars(stage)[name]
        if models:
            # modules refer to themselves; not looked at is what was there before them, the objects
            # of imported libraries, which took half a second after every stage
            gc.collect()
        gc.unfreeze()
    torch = sys.modules.get("torch")
    if models and torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
