// A card for each sound: a picture to switch it, a slider to set it.
Quiet.cards = (() => {
  const cards = new Map();

  const make = (sound) => {
    const card = document.createElement("li");
    card.className = "card";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "card-picture";
    button.style.backgroundImage = `url("thumbs/${sound.id}.png")`;
    button.title = sound.made;
    const name = document.createElement("span");
    button.append(name);
    const slider = document.createElement("input");
    Object.assign(slider, { type: "range", min: 0, max: 100, step: 1 });
    button.addEventListener("click", () => Quiet.mixer.setLevel(sound.id, Quiet.mixer.level(sound.id) > 0 ? 0 : 0.6));
    slider.addEventListener("input", () => Quiet.mixer.setLevel(sound.id, slider.value / 100));
    card.append(button, slider);
    cards.set(sound.id, { card, button, name, slider });
    return card;
  };
  const show = () => {
    for (const [id, { card, button, name, slider }] of cards) {
      const level = Quiet.mixer.level(id);
      const label = Quiet.language.word(id, "sounds");
      card.classList.toggle("on", level > 0);
      button.setAttribute("aria-pressed", String(level > 0));
      name.textContent = label;
      slider.setAttribute("aria-label", label);
      slider.value = Math.round(level * 100);
      slider.style.setProperty("--filled", `${slider.value}%`);
    }
  };
  const start = () => {
    for (const group of ["water", "air", "night", "room"]) {
      const list = document.querySelector(`[data-group="${group}"]`);
      list.append(...Quiet.sounds.filter((sound) => sound.group === group).map(make));
    }
    Quiet.mixer.changed(show);
    Quiet.language.changed(show);
    show();
  };
  return { start };
})();
