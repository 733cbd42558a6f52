Quiet.sounds.push({
  "id": "owl",
  "group": "night",
  "gain": 0.8,
  "made": "Four hoots between 356 and 372 Hz, and trees."
});
