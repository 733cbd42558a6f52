Quiet.sounds.push({
  "id": "gale",
  "group": "air",
  "gain": 0.9,
  "made": "The same in a temper, with a howl near 560 Hz."
});
