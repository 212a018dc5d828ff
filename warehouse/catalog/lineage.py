"""Lineage: from a sound, checkpoint, dataset or other result back to files and addresses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from warehouse.catalog.query import query
from warehouse.errors import FoleyError
from warehouse.files import file_sha256

if TYPE_CHECKING:
    import pyarrow as pa

_WALK = """
    with recursive walk as (
        select 0 as depth, kind, id, kind as child_kind, id as child
        from (select distinct kind, id from lineage where id = $what)
        union
        select depth + 1, l.parent_kind, l.parent, l.kind, l.id
        from walk w join lineage l on l.kind = w.kind and l.id = w.id
        where not (l.kind = 'dataset' and l.parent_kind = 'clip')
    )
    select min(w.depth)::INTEGER as depth, w.kind, w.id,
           arg_min(w.child_kind, w.depth) as of_kind, arg_min(w.child, w.depth) as "of",
           any_value(case w.kind
               when 'clip' then c.path
               when 'dataset' then concat(
                   json_extract_string(d.policy, '$.name'), ' v',
                   json_extract(d.policy, '$.version'), ': ', d.kept, ' of ', d.clips, ' clips')
               when 'features' then concat(f.clips, ' clips')
               when 'sound' then concat(
                   g.prompt, ', seed ', g.seed, ', ' ||
                   json_extract_string(g.record, '$.options.redo') || ' s anew',
                   ': ' || g.path)
               when 'checkpoint' then concat(k.preset, ', ', k.steps, ' steps')
           end) as detail
    from walk w left join clips c on w.kind = 'clip' and c.clip_id = w.id
    left join generated g on w.kind = 'sound' and g.sound = w.id
    left join datasets d on w.kind = 'dataset' and d.version = w.id
    left join features f on w.kind = 'features' and f.id = w.id
    left join checkpoints k on w.kind = 'checkpoint' and k.id = w.id
    group by w.kind, w.id order by 1, 2, 3"""


def trace(home: str | Path, what: str) -> pa.Table:
    """Everything that `what` came from, nearest first: depth, kind, id, of_kind, of, detail.

    `what` is the id of a checkpoint, evaluation, feature set, dataset version or clip, a sound's
    SHA-256, or a file: a sound is known by its content. A dataset is not followed to all its clips
    (query dataset_members for these). Reads the published catalog. Raises FoleyError when there is
    nothing of that name.
    """
    if Path(what).is_file():
        what = file_sha256(what)
    rows = query(home, _WALK, {"what": what})
    if not rows.num_rows:
        advice = "give a sound file, or the id of a checkpoint, dataset or clip"
        raise FoleyError(f"nothing called {what!r} is in the catalog: {advice}")
    return rows
