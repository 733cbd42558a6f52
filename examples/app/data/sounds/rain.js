Quiet.sounds.push({
  "id": "rain",
  "group": "water",
  "gain": 1,
  "made": "Noise between 900 and 5,200 Hz, and seven hundred drops."
});
