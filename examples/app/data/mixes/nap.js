Quiet.mixes.push({
  "id": "nap",
  "levels": {
    "cat": 0.55,
    "fan": 0.3,
    "heartbeat": 0.25
  }
});
