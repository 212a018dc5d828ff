// What the studio's frame adds to a player: keys, a stretch dragged over a waveform, and its own height.
(() => {
  "use strict";
  const root = document.querySelector(".clip");
  const player = root.player;
  const tell = (message) => window.parent.postMessage(message, "*");

  for (const track of root.querySelectorAll(".track")) {
    const mark = document.createElement("span");
    mark.className = "stretch";
    mark.hidden = true;
    track.append(mark, document.querySelector("#cuts").content.cloneNode(true));
    let from = null;
    const at = (event) => {
      const box = track.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    };
    track.addEventListener("pointerdown", (event) => { from = at(event); track.setPointerCapture(event.pointerId); });
    track.addEventListener("pointermove", (event) => {
      if (from === null || Math.abs(at(event) - from) < 0.01) return;
      for (const other of root.querySelectorAll(".stretch")) other.hidden = other !== mark;
      const [a, b] = [from, at(event)].sort((x, y) => x - y);
      mark.style.left = `${a * 100}%`;
      mark.style.width = `${(b - a) * 100}%`;
      tell({ from: a * player.seconds, to: b * player.seconds });
    });
    track.addEventListener("pointerup", () => { from = null; });
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === " ") { event.preventDefault(); player.toggle(); }
    const take = player.radios[Number(event.key) - 1];
    if (take) player.select(take.value);
  });
  new ResizeObserver(() => tell({ height: document.documentElement.offsetHeight })).observe(document.body);
  if (!document.documentElement.classList.contains("js")) return;
  for (const radio of player.radios) radio.addEventListener("change", () => tell({ take: radio.value }));
})();
