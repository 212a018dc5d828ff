// Players. The silent video is the clock. All sounds of a clip run together on the audio clock, each behind a gain, so that
// switching is a change of gains: instant, without a click, and never out of step. Where the two clocks part, the sounds
// are started again at the picture's time.
(() => {
  "use strict";
  const AudioContext = window.AudioContext || window.webkitAudioContext;
  if (!AudioContext) return; // the native controls stay
  document.documentElement.classList.add("js");

  const LEAD = 0.03; // seconds ahead that sounds are scheduled
  const TOLERANCE = 0.02; // seconds that sound and picture may part, on the mean of the last WINDOW looks
  const WINDOW = 12; // a video's clock is coarse, so one look says little
  const SETTLED = 3; // "playing" comes before the picture really moves, so sounds wait for this many moves of its clock
  let context = null;
  const players = [];

  const bytesOf = (uri) => Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (c) => c.charCodeAt(0)).buffer;

  class Player {
    constructor(root) {
      this.root = root;
      this.video = root.querySelector("video");
      this.seconds = Number(root.dataset.seconds);
      this.button = root.querySelector(".play");
      this.seek = root.querySelector(".seek");
      this.clock = root.querySelector(".clock");
      this.radios = [...root.querySelectorAll(".pick input")];
      this.voices = null; // Map of condition to {buffer, gain}, once decoded
      this.sources = null; // running sources, or null
      this.origin = 0; // audio time at which the sounds' time is 0
      this.drifts = [];
      this.shown = -1; // the picture's time at the last look
      this.moves = 0; // looks at which it had moved, since it last stood still
      this.corrections = 0; // likewise
      this.wire();
      this.select(this.selected());
      this.draw();
    }

    wire() {
      this.video.controls = false;
      this.video.muted = true;
      this.button.addEventListener("click", () => this.toggle());
      this.root.querySelector(".picture").addEventListener("click", () => this.toggle());
      this.seek.addEventListener("input", () => this.jump(Number(this.seek.value)));
      for (const radio of this.radios) radio.addEventListener("change", () => this.select(radio.value));
      for (const track of this.root.querySelectorAll(".track")) {
        track.addEventListener("click", (event) => {
          const box = track.getBoundingClientRect();
          this.select(track.closest(".lane").querySelector(".pick input").value);
          this.jump(((event.clientX - box.left) / box.width) * this.seconds);
        });
      }
      for (const name of ["pause", "waiting", "seeking", "ended"]) {
        this.video.addEventListener(name, () => this.sync());
      }
      this.video.addEventListener("play", () => this.run());
      this.video.addEventListener("seeked", () => this.draw());
    }

    selected() {
      const radio = this.radios.find((r) => r.checked);
      return radio ? radio.value : "";
    }

    select(name) {
      for (const radio of this.radios) {
        radio.checked = radio.value === name;
        radio.closest(".lane").classList.toggle("heard", radio.checked);
      }
      if (!this.voices) return;
      for (const [key, voice] of this.voices) voice.gain.gain.setTargetAtTime(key === name ? 1 : 0, context.currentTime, 0.008);
    }

    async decode() {
      const audios = [...this.root.querySelectorAll(".lane audio")];
      const buffers = await Promise.all(audios.map((audio) => context.decodeAudioData(bytesOf(audio.src))));
      this.voices = new Map();
      buffers.forEach((buffer, i) => {
        const gain = context.createGain();
        gain.gain.value = 0;
        gain.connect(context.destination);
        this.voices.set(audios[i].closest(".lane").querySelector(".pick input").value, { buffer, gain });
      });
      this.select(this.selected());
    }

    async toggle() {
      if (!this.video.paused) return this.video.pause();
      for (const other of players) if (other !== this) other.video.pause();
      context = context || new AudioContext();
      const resumed = context.resume();
      if (!this.voices) await (this.decoding = this.decoding || this.decode());
      await resumed;
      await this.video.play();
    }

    jump(seconds) {
      this.video.currentTime = Math.max(0, Math.min(seconds, (this.video.duration || this.seconds) - 0.01));
      this.draw();
    }

    // How far the sound that is heard now is ahead of the picture, in seconds.
    drift() {
      return context.currentTime - (context.outputLatency || 0) - this.origin - this.video.currentTime;
    }

    start() {
      this.stop();
      const at = context.currentTime + LEAD;
      this.origin = context.currentTime - (context.outputLatency || 0) - this.video.currentTime;
      const offset = at - this.origin;
      this.sources = [...this.voices.values()].filter((v) => offset < v.buffer.duration).map((voice) => {
        const source = context.createBufferSource();
        source.buffer = voice.buffer;
        source.connect(voice.gain);
        source.start(at, Math.max(0, offset));
        return source;
      });
    }

    stop() {
      for (const source of this.sources || []) source.stop();
      this.sources = null;
      this.drifts = [];
    }

    rest() {
      this.stop();
      this.moves = 0;
      this.corrections = 0;
    }

    sync() {
      const video = this.video;
      const running = this.voices && !video.paused && !video.seeking && !video.ended && video.readyState > 2;
      if (video.currentTime !== this.shown) this.moves += 1;
      this.shown = video.currentTime;
      if (!running) this.rest();
      else if (this.sources) this.correct();
      else if (this.moves >= SETTLED) this.start();
      this.root.classList.toggle("playing", !video.paused);
      this.button.setAttribute("aria-label", video.paused ? "Play" : "Pause");
    }

    correct() {
      this.drifts.push(this.drift());
      if (this.drifts.length < WINDOW) return;
      const mean = this.drifts.reduce((a, b) => a + b) / WINDOW;
      this.drifts.shift();
      // A browser that rounds its clocks against tracking never comes within the tolerance: do not stutter for ever.
      if (Math.abs(mean) < TOLERANCE || (this.corrections >= 3 && Math.abs(mean) < 5 * TOLERANCE)) return;
      this.corrections += 1;
      this.start();
    }

    run() {
      if (this.video.paused) return;
      this.sync();
      this.draw();
      cancelAnimationFrame(this.frame);
      this.frame = requestAnimationFrame(() => this.run());
    }

    draw() {
      const t = Math.min(this.video.currentTime, this.seconds);
      this.root.style.setProperty("--t", t / this.seconds);
      this.seek.value = t;
      this.clock.textContent = `${t.toFixed(1)} s`;
    }
  }

  for (const root of document.querySelectorAll(".clip")) players.push((root.player = new Player(root)));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) for (const player of players) player.video.pause();
  });
})();
