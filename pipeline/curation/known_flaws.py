"""How well curation finds what is wrong with procedural clips, of which the truth is known."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from model.metrics.metrics import area_under_roc
from pipeline.curation.judged_clips import Judged
from pipeline.procedural import FLAWS, MISDUBBED

#: The score that has to find each flaw.
SCORE_OF = {flaw: "imagebind" if flaw == MISDUBBED else "pq" for flaw in FLAWS}
#: Kinds of clips: (name, flaws that it takes together).
GROUPS = {MISDUBBED: (MISDUBBED,), "degraded": FLAWS[1:], **{flaw: (flaw,) for flaw in FLAWS[1:]}}

# A truth that is no JSON, as a sidecar may give it, is none.
_ROWS = """
with known as (select *, if(json_valid(truth), truth, null) as told from judged)
select case when told->>'$.bad' is not null then 'broken' else coalesce(told->>'$.flaw', 'true') end as kind,
       kept, imagebind, pq
from known where json_exists(told, '$.flaw')"""


def flaw_figures(found: Judged) -> dict[str, dict[str, Any]]:
    """What became of the clips of each kind, and how well a score tells them from true ones.

    By kind (true, broken, misdubbed, degraded, and the kinds of these): kept and dropped clips, and
    for flawed ones the `score` that has to find them with its `auc`, the area under the ROC curve
    of true against flawed clips. Empty where no clip's truth is known.
    """
    if "imagebind" not in found.facts or "pq" not in found.facts:
        return {}
    rows = found.con.sql(_ROWS).fetchnumpy()
    kind, kept = np.asarray(rows["kind"], object), np.asarray(rows["kept"], bool)
    if not len(kind):
        return {}
    scores = {name: np.ma.filled(rows[name], np.nan).astype(float) for name in ("imagebind", "pq")}

    def counts(chosen: Any) -> dict[str, Any]:
        return {"kept": int(kept[chosen].sum()), "dropped": int((~kept[chosen]).sum())}

    def told(name: str, chosen: Any) -> dict[str, Any]:
        scored = np.isfinite(scores[name])
        true, flawed = scores[name][scored & (kind == "true")], scores[name][scored & chosen]
        if not len(true) or not len(flawed):
            return {}
        return {"score": name, "auc": round(area_under_roc(true, flawed), 4)}

    present = Counter(kind.tolist())
    figures = {name: counts(kind == name) for name in ("true", "broken") if present[name]}
    for group, flaws in GROUPS.items():
        chosen = np.isin(kind, flaws)
        if chosen.any():
            figures[group] = counts(chosen) | told(SCORE_OF[flaws[0]], chosen)
    return figures
