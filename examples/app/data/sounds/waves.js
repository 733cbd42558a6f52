Quiet.sounds.push({
  "id": "waves",
  "group": "water",
  "gain": 1,
  "made": "Two bands of noise: the water rises first, the foam follows."
});
