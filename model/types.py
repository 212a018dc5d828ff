"""Arrays as they travel between rooms; functions say which shape they take and give."""

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]  # samples in -1..1, [n] or [channels, n]
Frames = NDArray[np.uint8]  # RGB pictures [T, H, W, 3]
Times = NDArray[np.float64]  # seconds
