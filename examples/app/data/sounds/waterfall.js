Quiet.sounds.push({
  "id": "waterfall",
  "group": "water",
  "gain": 0.8,
  "made": "A wide band of noise with a little glitter on top."
});
