// The sleep timer: the last two minutes fade, then silence.
Quiet.timer = (() => {
  const FADE_MS = 120_000;
  let end = null;

  const show = () => {
    const left = end === null ? null : Math.max(0, end - Date.now());
    const text = left === null ? "" : `${Math.floor(left / 60_000)}:${String(Math.floor(left / 1000) % 60).padStart(2, "0")}`;
    document.getElementById("left").textContent = text;
  };
  const tick = () => {
    if (end === null) return;
    const left = end - Date.now();
    if (left <= 0) {
      Quiet.mixer.setPlaying(false);
      set(0);
    } else {
      Quiet.mixer.setFade(Math.min(1, left / FADE_MS));
    }
    show();
  };
  const set = (minutes) => {
    end = minutes ? Date.now() + minutes * 60_000 : null;
    document.getElementById("timer").value = String(minutes);
    Quiet.mixer.setFade(1);
    show();
  };
  const start = () => {
    document.getElementById("timer").addEventListener("change", (event) => set(Number(event.target.value)));
    setInterval(tick, 1000);
  };
  return { start, set };
})();
