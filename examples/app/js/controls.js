// Play and pause, the master volume, the language, and the keyboard.
Quiet.controls = (() => {
  const show = () => {
    const play = document.getElementById("play");
    play.classList.toggle("playing", Quiet.mixer.playing());
    play.setAttribute("aria-pressed", String(Quiet.mixer.playing()));
    document.getElementById("master").value = Math.round(Quiet.mixer.master() * 100);
    document.getElementById("count").textContent = Object.keys(Quiet.mixer.levels()).length || "";
  };
  const start = () => {
    document.getElementById("play").addEventListener("click", () => {
      if (!Object.keys(Quiet.mixer.levels()).length) Quiet.mixer.setAll(Quiet.mixes[0].levels);
      else Quiet.mixer.setPlaying(!Quiet.mixer.playing());
    });
    document.getElementById("silence").addEventListener("click", () => Quiet.mixer.setAll({}));
    document.getElementById("master").addEventListener("input", (event) => Quiet.mixer.setMaster(event.target.value / 100));
    const languages = document.getElementById("language");
    for (const [code, words] of Object.entries(Quiet.words)) languages.add(new Option(words.name, code));
    languages.value = Quiet.language.current();
    languages.addEventListener("change", () => Quiet.language.choose(languages.value));
    document.addEventListener("keydown", (event) => {
      if (event.key === " " && event.target === document.body) {
        event.preventDefault();
        document.getElementById("play").click();
      }
    });
    Quiet.mixer.changed(show);
    show();
  };
  return { start };
})();
