Quiet.mixes.push({
  "id": "deep_work",
  "levels": {
    "brown": 0.6,
    "drone": 0.35
  }
});
