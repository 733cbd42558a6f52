Quiet.sounds.push({
  "id": "brook",
  "group": "water",
  "gain": 0.9,
  "made": "Four hundred and twenty bubbles; each one's pitch climbs as it bursts."
});
