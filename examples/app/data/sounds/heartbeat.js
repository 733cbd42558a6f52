Quiet.sounds.push({
  "id": "heartbeat",
  "group": "night",
  "gain": 1,
  "made": "Two soft thumps, 67 times a minute."
});
