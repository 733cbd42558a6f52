Quiet.sounds.push({
  "id": "cat",
  "group": "room",
  "gain": 1,
  "made": "Noise below 240 Hz, shaken twenty-five times a second, in and out with the breath."
});
