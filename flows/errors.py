"""Which errors are for a person to read, rather than a fault of the program."""

from __future__ import annotations

import sys

from warehouse.errors import FoleyError

# Where the other such errors are defined. They are looked up among the modules that are loaded,
# because importing these would cost seconds; an error that was raised has had its module loaded.
_OTHERS = (("model.presets.preset", "ModelError"), ("model.weights.load", "WeightsError"))


def is_user_error(error: BaseException) -> bool:
    """Whether the message of the error is all that a person needs."""
    kinds = [
        getattr(sys.modules[module], name) for module, name in _OTHERS if module in sys.modules
    ]
    return isinstance(error, (FoleyError, *kinds))
