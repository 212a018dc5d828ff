"""Media files in and out: facts, sound and pictures on one clock; a bad file is a MediaError.

Everything is decoded in process; what comes from strangers is read through `media_workers`,
processes of their own with limits of time and memory. Times are seconds after the first picture,
for the sound too.
"""

# pyright: reportUnusedImport=false
from pipeline.media.copying import check_holds, timecode_of
from pipeline.media.errors import MediaError, printable
from pipeline.media.info import MediaInfo, probe
from pipeline.media.opening import sniff
from pipeline.media.picture import Framing, Scaling, read_frames, read_segments
from pipeline.media.proxy import write_proxy
from pipeline.media.sound import MAX_SECONDS, Sound, decode_audio, read_audio
from pipeline.media.workers import MediaWorkers, WorkerLimits, media_workers
from pipeline.media.writing import Muxing, mux, whole, write_flac, write_wav
