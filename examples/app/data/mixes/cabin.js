Quiet.mixes.push({
  "id": "cabin",
  "levels": {
    "rain": 0.55,
    "fire": 0.6,
    "cat": 0.3
  }
});
