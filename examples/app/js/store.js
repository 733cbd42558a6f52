// What the app remembers between visits, on this device alone.
Quiet.store = (() => {
  const PREFIX = "quiet-hours:";
  const read = (name, fallback) => {
    try {
      const text = localStorage.getItem(PREFIX + name);
      return text === null ? fallback : JSON.parse(text);
    } catch {
      return fallback; // private windows may refuse, and the app works without
    }
  };
  const write = (name, value) => {
    try {
      localStorage.setItem(PREFIX + name, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  };
  return { read, write };
})();
