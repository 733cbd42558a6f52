Quiet.sounds.push({
  "id": "brown",
  "group": "room",
  "gain": 1,
  "made": "Noise that falls by six decibels an octave: hills far off."
});
