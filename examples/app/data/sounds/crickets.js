Quiet.sounds.push({
  "id": "crickets",
  "group": "night",
  "gain": 0.5,
  "made": "Five singers near 4 kHz, four chirps to a call."
});
