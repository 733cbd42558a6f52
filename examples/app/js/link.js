// A mix in the address: index.html#rain=60&owl=30 opens with it, so that a mix can be sent to a friend.
Quiet.link = {
  start() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const levels = {};
    for (const sound of Quiet.sounds) {
      const level = Number(asked.get(sound.id));
      if (level > 0) levels[sound.id] = Math.min(100, level) / 100;
    }
    if (Object.keys(levels).length) {
      Quiet.mixer.setAll(levels);
    }
    Quiet.mixer.changed(() => {
      const pairs = Object.entries(Quiet.mixer.levels()).map(([id, level]) => `${id}=${Math.round(level * 100)}`);
      history.replaceState(null, "", pairs.length ? `#${pairs.join("&")}` : location.pathname + location.search);
    });
  },
};
