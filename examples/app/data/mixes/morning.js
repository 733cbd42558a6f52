Quiet.mixes.push({
  "id": "morning",
  "levels": {
    "songbird": 0.45,
    "brook": 0.35,
    "wind": 0.2
  }
});
