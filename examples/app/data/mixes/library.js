Quiet.mixes.push({
  "id": "library",
  "levels": {
    "clock": 0.35,
    "rain": 0.3,
    "fan": 0.15
  }
});
