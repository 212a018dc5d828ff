"""What the catalog holds beside the stages: tables, views, and comments on their columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from warehouse.commits import CLIPS_DESCRIPTOR
from warehouse.datasets.versions import MEMBERS
from warehouse.rows.live import literal, quote
from warehouse.schema import CLIPS, SPINE, comment_of

Columns = dict[str, tuple[str, str]]

#: Columns that stage views and history tables have beside the spine and the stage's own.
STAGE_COLUMNS = {
    "fingerprint": "hash of the settings and models that the row was made under",
    "current": "whether that is the fingerprint under which the stage was last planned",
    "live": "whether the row is the one that counts for the clip as it is now",
}


def _table(text: str) -> tuple[str, Columns]:
    """A table's comment, and its columns from lines with a name, a type and a comment."""
    doc, *lines = text.strip().splitlines()
    columns = [line.split(maxsplit=2) for line in lines]
    return doc, {name: (type_, comment) for name, type_, comment in columns}


#: name: (comment, columns with their type and comment)
TABLES = {
    "fingerprints": _table("""
        What every fingerprint of every stage stands for.
        stage          VARCHAR name of the stage
        fingerprint    VARCHAR hash of all of the following
        current        BOOLEAN whether the stage was last planned under it
        version        INTEGER version of the stage's code
        settings       JSON    settings of the stage
        model_revision VARCHAR hash of the model's weights, empty without a model
        upstream       JSON    fingerprints of the stages it builds on
        reads          JSON    clip columns that the results depend on, upstream ones included"""),
    "funnel": _table("""
        Clips by stage under the current settings, in order.
        position    INTEGER order of the stages
        stage       VARCHAR name of the stage
        fingerprint VARCHAR its current fingerprint
        reached     BIGINT  clips that passed every upstream stage
        passed      BIGINT  clips that passed
        rejected    BIGINT  clips rejected with a reason
        failed      BIGINT  clips that failed with an error
        quarantined BIGINT  failed clips that are not tried again until released
        waiting     BIGINT  clips that reached the stage and have no row yet"""),
    "failures": _table("""
        Clips that failed a stage under the current settings.
        stage        VARCHAR     name of the stage
        clip_id      VARCHAR     id of the clip
        error        VARCHAR     class of the error
        message      VARCHAR     message of the error
        attempt      INTEGER     attempts so far
        quarantined  BOOLEAN     whether it is not tried again until it is released
        committed_at TIMESTAMPTZ when it last failed
        path         VARCHAR     file of the clip
        url          VARCHAR     address the clip was fetched from"""),
    "commits": _table("""
        Commits: the batches that were written, and the file that holds each now.
        commit       VARCHAR     id of the commit
        stage        VARCHAR     name of the stage
        fingerprint  VARCHAR     fingerprint of the stage
        clips        BIGINT      rows
        passed       BIGINT      clips that passed
        rejected     BIGINT      clips rejected with a reason
        failed       BIGINT      clips that failed with an error
        seconds      DOUBLE      wall seconds that the batch took
        committed_at TIMESTAMPTZ when it was committed
        file         VARCHAR     Parquet file that holds its rows now (compaction moves them)"""),
    "sounds": _table("""
        Generated sounds with the checkpoint that made them.
        sound       VARCHAR SHA-256 of the sound, whose bytes are in its stage's commits
        stage       VARCHAR stage that made it; generate: the command, see table generated
        fingerprint VARCHAR fingerprint of that stage
        clip_id     VARCHAR clip that it was made for
        checkpoint  VARCHAR checkpoint that made it"""),
    "generated": _table("""
        Sounds that foley generate wrote, each with what made it.
        sound           VARCHAR     SHA-256 of the file that was written
        created_at      TIMESTAMPTZ when it was written
        path            VARCHAR     where it was written
        prompt          VARCHAR     what was to be heard
        negative_prompt VARCHAR     what was not to be heard
        seed            BIGINT      seed of the sound
        seconds         DOUBLE      how long it is
        video_sha256    VARCHAR     SHA-256 of the video that it was made for
        preset          VARCHAR     preset
        bridge          VARCHAR     SHA-256 of the bridge that made it
        checkpoint      VARCHAR     checkpoint that the bridge is, null for other bridges
        record          JSON        the whole record"""),
    "datasets": _table("""
        Dataset versions.
        version      VARCHAR     dataset version: name, number and hash
        name         VARCHAR     name of the dataset
        number       INTEGER     counts the versions of the name from 1
        role         VARCHAR     curated, or uncurated for a set that an ablation compares with
        created_at   TIMESTAMPTZ when the version was made
        previous     VARCHAR     version before it
        policy       JSON        the policy in full: gates, subsets, splits
        fingerprints JSON        fingerprint of every stage whose facts were judged
        funnel       JSON        clips dropped by and left after every stage and gate
        clips        BIGINT      clips judged
        kept         BIGINT      clips in the dataset
        dropped      BIGINT      clips not in the dataset
        train        BIGINT      kept clips in the training split
        val          BIGINT      kept clips in the validation split
        test         BIGINT      kept clips in the test split
        sft          BIGINT      kept clips in the high-quality subset
        ablation     BIGINT      kept clips in the ablation subset
        added        BIGINT      clips that the version before did not have
        removed      BIGINT      clips that only the version before had
        moved        BIGINT      clips in another split than in the version before
        path         VARCHAR     folder of the version"""),
    "features": _table("""
        Feature sets made from dataset versions.
        id           VARCHAR id of the feature set
        dataset      VARCHAR dataset version
        split        VARCHAR split of the dataset, null for all
        subset       VARCHAR subset of the dataset, null for all
        clips        BIGINT  clips in it
        missing      BIGINT  members that lacked a feature
        bytes        BIGINT  size on disk
        columns      JSON    names of its columns
        fingerprints JSON    fingerprints of the stages that its columns come from
        path         VARCHAR folder with its Parquet shards"""),
    "checkpoints": _table("""
        Trained bridges.
        id         VARCHAR     id of the checkpoint
        created_at TIMESTAMPTZ when it was written
        dataset    VARCHAR     dataset version that it was trained on
        features   VARCHAR     feature set that it was trained from
        preset     VARCHAR     preset
        steps      BIGINT      training steps
        seed       BIGINT      seed of the training
        record     JSON        the whole record"""),
    "evaluations": _table("""
        Evaluations of checkpoints and other systems.
        id         VARCHAR     id of the evaluation
        created_at TIMESTAMPTZ when it was written
        checkpoint VARCHAR     checkpoint evaluated
        dataset    VARCHAR     dataset version evaluated on
        system     VARCHAR     system evaluated, ours or another
        preset     VARCHAR     preset
        record     JSON        the whole record"""),
    "runs": _table("""
        Flow runs.
        id          VARCHAR     id of the run
        flow        VARCHAR     name of the flow
        state       VARCHAR     how it ended, or running
        started_at  TIMESTAMPTZ when it began
        finished_at TIMESTAMPTZ when it ended
        seconds     DOUBLE      wall seconds
        dataset     VARCHAR     dataset version made or used
        checkpoint  VARCHAR     checkpoint made or used
        record      JSON        the whole record"""),
}

_DIFF = """
    with versions as (select version, previous from datasets where previous is not null),
    now as (
        select v.version, v.previous, m.clip_id, m.split
        from versions v join dataset_members m using (version) where m.kept
    ), past as (
        select v.version, v.previous, m.clip_id, m.split
        from versions v join dataset_members m on m.version = v.previous where m.kept
    )
    select coalesce(n.version, p.version) as version, coalesce(n.previous, p.previous) as previous,
           coalesce(n.clip_id, p.clip_id) as clip_id,
           case when p.clip_id is null then 'added'
                when n.clip_id is null then 'removed'
                else 'moved' end as change,
           p.split as split_before, n.split as split, w.reason
    from now n full join past p on n.version = p.version and n.clip_id = p.clip_id
    left join dataset_members w
        on w.version = p.version and w.clip_id = p.clip_id and n.clip_id is null
    where p.clip_id is null or n.clip_id is null or p.split is distinct from n.split"""

_LINEAGE = """
    select * from (
        select 'sound' as kind, sound as id, 'checkpoint' as parent_kind, checkpoint as parent
        from sounds
        union all select 'sound', sound, 'clip', clip_id from sounds
        union all select 'evaluation', id, 'checkpoint', checkpoint from evaluations
        union all select 'evaluation', id, 'dataset', dataset from evaluations
        union all select 'checkpoint', id, 'features', features from checkpoints
        union all select 'checkpoint', id, 'dataset', dataset from checkpoints
        union all select 'dataset', version, 'clip', clip_id from dataset_members where kept
        union all select 'clip', clip_id, 'file', sha256 from clips
        union all select 'clip', clip_id, 'url', url from clips
    ) where parent is not null
    union all select 'sound', sound, 'bridge', bridge from generated where checkpoint is null
    union all select 'sound', sound, 'file', video_sha256 from generated
    union all select 'features', id, 'dataset', dataset from features"""

#: name: (SQL, comment, comments of columns)
VIEWS: dict[str, tuple[str, str, dict[str, str]]] = {
    "dataset_diff": (
        _DIFF,
        "Clips that came in, went out or moved between a dataset version and the one before.",
        {
            "version": "dataset version",
            "previous": "version before it",
            "clip_id": "id of the clip",
            "change": "added, removed or moved (to another split)",
            "split_before": "split in the version before",
            "split": "split in this version",
            "reason": "why a removed clip was dropped",
        },
    ),
    "lineage": (
        _LINEAGE,
        "What came from what, one step a row: walk it with a recursive query.",
        {
            "kind": "sound, evaluation, checkpoint, features, dataset or clip",
            "id": "which one",
            "parent_kind": "kind of what it came from: also file and bridge (hashes) and url",
            "parent": "which one it came from",
        },
    ),
}


#: Names that no stage can have.
RESERVED = frozenset({*TABLES, *VIEWS, "dataset_members", "meta", "clips", "history", "main"})


def comment_sql() -> Iterator[str]:
    """COMMENT statements for everything but the stages."""
    meta = {"key": "state (hash of what it was built from) or home", "value": "its value"}
    yield from comments_sql("table", "meta", "How the catalog was built.", meta)
    spine = {f.name: comment_of(f) for f in SPINE}
    spine["status"] = "passed, or failed when the file cannot be read"
    spine["error"] = "class of the error reading the file"
    names = ("error", "message", "committed_at", "generation", "commit")
    clips = {name: spine[name] for name in ("clip_id", "status")}
    clips |= {f.name: comment_of(f) for f in CLIPS} | {name: spine[name] for name in names}
    yield from comments_sql("table", "clips", CLIPS_DESCRIPTOR.doc, clips)
    members = {"version": "dataset version", **{f.name: comment_of(f) for f in MEMBERS}}
    doc = "Every clip that a dataset version judged: kept, or dropped with its reason."
    yield from comments_sql("table", "dataset_members", doc, members)
    for name, (doc, columns) in TABLES.items():
        texts = {column: text for column, (_, text) in columns.items()}
        yield from comments_sql("table", name, doc, texts)
    for name, (_, doc, texts) in VIEWS.items():
        yield from comments_sql("view", name, doc, texts)


def comments_sql(kind: str, name: str, doc: str, columns: Mapping[str, str]) -> Iterator[str]:
    """COMMENT statements for one table or view and its columns."""
    yield f"comment on {kind} {name} is {literal(doc)}"
    for column, text in columns.items():
        yield f"comment on column {name}.{quote(column)} is {literal(text)}"
