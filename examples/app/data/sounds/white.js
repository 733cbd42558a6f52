Quiet.sounds.push({
  "id": "white",
  "group": "room",
  "gain": 0.4,
  "made": "Every frequency alike."
});
