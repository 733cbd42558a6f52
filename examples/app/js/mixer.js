// All voices together: levels, the master volume, play and pause.
Quiet.mixer = (() => {
  const voices = new Map();
  const listeners = [];
  let master = 0.8;
  let fade = 1; // the sleep timer turns this down
  let playing = false;

  const tell = () => listeners.forEach((listener) => listener());
  const apply = () => voices.forEach((voice) => voice.apply(master * fade, playing));
  const remember = () => Quiet.store.write("last", { levels: levels(), master });
  const levels = () => Object.fromEntries([...voices].filter(([, v]) => v.level > 0).map(([id, v]) => [id, v.level]));

  const start = () => {
    for (const sound of Quiet.sounds) voices.set(sound.id, new Quiet.Voice(sound));
    const last = Quiet.store.read("last", { levels: {}, master });
    master = last.master;
    for (const [id, level] of Object.entries(last.levels)) if (voices.has(id)) voices.get(id).level = level;
  };
  const setLevel = (id, level) => {
    voices.get(id).level = level;
    if (level > 0 && !playing) playing = true;
    apply(); remember(); tell();
  };
  const setAll = (wanted) => {
    voices.forEach((voice, id) => { voice.level = wanted[id] ?? 0; });
    playing = Object.keys(wanted).length > 0;
    apply(); remember(); tell();
  };
  const setMaster = (value) => { master = value; apply(); remember(); tell(); };
  const setFade = (value) => { fade = value; apply(); };
  const setPlaying = (value) => { playing = value; apply(); tell(); };
  const blocked = () => { if (playing) setPlaying(false); }; // the browser wants a touch first

  return {
    start, setLevel, setAll, setMaster, setFade, setPlaying, blocked, levels,
    level: (id) => voices.get(id).level,
    master: () => master,
    playing: () => playing,
    loudest: () => [...voices].reduce((best, [id, v]) => (v.level > (best?.level ?? 0) ? { id, level: v.level } : best), null),
    changed: (listener) => listeners.push(listener),
  };
})();
