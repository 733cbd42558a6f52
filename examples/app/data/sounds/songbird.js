Quiet.sounds.push({
  "id": "songbird",
  "group": "air",
  "gain": 0.6,
  "made": "Seventeen whistles that bend up or down."
});
