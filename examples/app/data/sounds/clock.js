Quiet.sounds.push({
  "id": "clock",
  "group": "room",
  "gain": 0.8,
  "made": "Tick and tock, two strikes each."
});
