Quiet.sounds.push({
  "id": "fan",
  "group": "room",
  "gain": 0.8,
  "made": "A motor's hum at 92 Hz and its overtones, and moving air."
});
