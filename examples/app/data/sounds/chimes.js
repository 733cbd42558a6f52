Quiet.sounds.push({
  "id": "chimes",
  "group": "air",
  "gain": 0.7,
  "made": "Eleven strikes of a tuned pipe, in a pentatonic scale."
});
