"""How well curation finds what is wrong with procedural clips, of which the truth is known."""

import numpy as np

from model.metrics.metrics import area_under_roc
from pipeline.curation.dataset_clips import DatasetClips
from pipeline.procedural import FLAWS, MISDUBBED, OVERLAYS
from warehouse.files import Json

#: The score that has to find each flaw.
SCORE_OF = {flaw: "imagebind" if flaw == MISDUBBED else "pq" for flaw in (*FLAWS, *OVERLAYS)}
#: Kinds of clips: (name, flaws that it takes together).
GROUPS = {MISDUBBED: (MISDUBBED,), "degraded": FLAWS[1:]} | {
    flaw: (flaw,) for flaw in (*FLAWS[1:], *OVERLAYS)
}

# A truth that is no JSON, as a sidecar may give it, is none.
_ROWS = """
with truths as (select *, if(json_valid(truth), truth, null) as json from dataset_clips)
select case when json->>'$.bad' is not null then 'broken'
            else coalesce(json->>'$.flaw', 'true') end as kind,
       kept, imagebind, pq
from truths where json_exists(json, '$.flaw')"""


def flaw_figures(clips: DatasetClips) -> dict[str, Json]:
    """What became of the clips of each kind, and how well a score tells them from true ones.

    By kind (true, broken, misdubbed, degraded, and the kinds of these): kept and dropped clips, and
    for flawed ones the `score` that has to find them with its `auc`, the area under the ROC curve
    of true against flawed clips. Empty where no clip's truth is known.
    """
    if "imagebind" not in clips.facts or "pq" not in clips.facts:
        return {}
    rows = clips.con.sql(_ROWS).fetchnumpy()
    kind, kept = np.asarray(rows["kind"], object), np.asarray(rows["kept"], bool)
    scores = {name: np.ma.filled(rows[name], np.nan).astype(float) for name in ("imagebind", "pq")}
    figures: dict[str, Json] = {}
    for name, flaws in {"true": ("true",), "broken": ("broken",), **GROUPS}.items():
        chosen = np.isin(kind, flaws)
        if not chosen.any():
            continue
        figures[name] = {"kept": int(kept[chosen].sum()), "dropped": int((~kept[chosen]).sum())}
        if name in GROUPS:
            score = SCORE_OF[flaws[0]]
            scored = np.isfinite(scores[score])
            true, flawed = (scores[score][scored & of] for of in (kind == "true", chosen))
            if len(true) and len(flawed):
                figures[name] |= {"score": score, "auc": round(area_under_roc(true, flawed), 4)}
    return figures
