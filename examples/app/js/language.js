// Words in the reader's language; English where one is missing.
Quiet.language = (() => {
  const listeners = [];
  let current = "en";

  const choose = (code) => {
    current = Quiet.words[code] ? code : "en";
    document.documentElement.lang = current;
    Quiet.store.write("language", current);
    for (const node of document.querySelectorAll("[data-word]")) node.textContent = word(node.dataset.word);
    for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", word(node.dataset.label));
    for (const node of document.querySelectorAll("input[maxlength]")) node.placeholder = word(node.dataset.label);
    listeners.forEach((listener) => listener());
  };
  const word = (key, section = "app") => {
    const mine = Quiet.words[current]?.[section]?.[key];
    return mine ?? Quiet.words.en[section][key] ?? key;
  };
  const start = () => {
    const wanted = Quiet.store.read("language", (navigator.language || "en").slice(0, 2));
    choose(wanted);
  };
  return { choose, word, start, current: () => current, changed: (listener) => listeners.push(listener) };
})();
