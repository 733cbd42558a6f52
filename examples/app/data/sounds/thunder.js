Quiet.sounds.push({
  "id": "thunder",
  "group": "water",
  "gain": 1,
  "made": "Noise below 90 Hz, swelling from far away."
});
