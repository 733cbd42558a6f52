Quiet.mixes.push({
  "id": "storm",
  "levels": {
    "downpour": 0.6,
    "thunder": 0.7,
    "gale": 0.35
  }
});
