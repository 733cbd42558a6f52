// One sound that never ends. Two players run the same loop at slightly different speeds, half a loop apart, so that the
// ear finds no seam and no repetition.
Quiet.Voice = class {
  constructor(sound) {
    this.sound = sound;
    this.level = 0; // what the listener chose, 0 to 1
    this.players = null;
  }

  open() {
    if (this.players) return;
    this.players = [1, 0.957].map((rate) => {
      const player = new Audio(`sounds/${this.sound.id}.wav`);
      player.loop = true;
      player.preservesPitch = false;
      player.playbackRate = rate;
      return player;
    });
    const second = this.players[1];
    second.addEventListener("loadedmetadata", () => { second.currentTime = second.duration / 2; }, { once: true });
  }

  // `master` is the loudness of everything, 0 to 1. Loudness is felt in squares.
  apply(master, playing) {
    const loudness = this.level * this.level * master * (this.sound.gain ?? 1);
    if (loudness <= 0.0001 || !playing) {
      this.players?.forEach((player) => player.pause());
      return;
    }
    this.open();
    for (const player of this.players) {
      player.volume = Math.min(1, loudness * 0.6);
      if (player.paused) player.play().catch(() => Quiet.mixer.blocked());
    }
  }
};
