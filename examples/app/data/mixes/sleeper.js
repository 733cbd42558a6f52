Quiet.mixes.push({
  "id": "sleeper",
  "levels": {
    "train": 0.6,
    "rain": 0.3,
    "heartbeat": 0.15
  }
});
