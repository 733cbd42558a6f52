Quiet.sounds.push({
  "id": "drone",
  "group": "night",
  "gain": 0.7,
  "made": "Seven sines that lean on each other."
});
