// Mixes that come with the app, and those that the listener keeps.
Quiet.mixList = (() => {
  const mine = () => Quiet.store.read("mixes", []);

  const entry = (label, levels, remove) => {
    const item = document.createElement("li");
    const play = document.createElement("button");
    play.type = "button";
    play.textContent = label;
    play.addEventListener("click", () => Quiet.mixer.setAll(levels));
    item.append(play);
    if (remove) {
      const drop = document.createElement("button");
      drop.type = "button";
      drop.className = "drop";
      drop.textContent = "×";
      drop.setAttribute("aria-label", `${Quiet.language.word("remove")}: ${label}`);
      drop.addEventListener("click", remove);
      item.append(drop);
    }
    return item;
  };
  const show = () => {
    const list = document.getElementById("mixes");
    const kept = mine();
    list.replaceChildren(
      ...Quiet.mixes.map((mix) => entry(Quiet.language.word(mix.id, "mixes"), mix.levels)),
      ...kept.map((mix, at) => entry(mix.name, mix.levels, () => {
        Quiet.store.write("mixes", kept.filter((_, other) => other !== at));
        show();
      })),
    );
  };
  const start = () => {
    document.getElementById("keep").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = document.getElementById("keep-name");
      const name = field.value.trim();
      if (!name || !Object.keys(Quiet.mixer.levels()).length) return;
      Quiet.store.write("mixes", [...mine(), { name, levels: Quiet.mixer.levels() }]);
      field.value = "";
      show();
    });
    Quiet.language.changed(show);
    show();
  };
  return { start };
})();
