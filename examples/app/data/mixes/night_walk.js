Quiet.mixes.push({
  "id": "night_walk",
  "levels": {
    "crickets": 0.4,
    "owl": 0.35,
    "wind": 0.3
  }
});
