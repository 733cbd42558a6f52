// The picture behind it all is that of the loudest sound.
Quiet.scenery = (() => {
  let shown = null;
  const show = () => {
    const wanted = Quiet.mixer.loudest()?.id ?? "waves";
    if (wanted === shown) return;
    shown = wanted;
    const [front, back] = document.querySelectorAll(".scene");
    const hidden = front.classList.contains("shown") ? back : front;
    hidden.style.backgroundImage = `url("scenes/${wanted}.png")`;
    front.classList.toggle("shown", hidden === front);
    back.classList.toggle("shown", hidden === back);
  };
  const start = () => { Quiet.mixer.changed(show); show(); };
  return { start };
})();
